// A page that was opened as a file may not fetch its neighbours: the search then shows titles without extracts.
if (location.protocol === "file:" && typeof DOCUMENTATION_OPTIONS === "object") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
