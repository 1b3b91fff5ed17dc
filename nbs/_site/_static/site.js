// A page that was opened as a file may not fetch its neighbors: the search then shows titles without extracts.
if (location.protocol === "file:" && typeof DOCUMENTATION_OPTIONS === "object") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

// Questions: an index entry answers a search if it has all of its words, apart from small ones such as "how do I".
const SMALL = new Set("a an and are can do does for from get how i in is it me my of on or our should the this to too use using want what when where which why with without you your".split(" "));

function answers(query) {
  const asked = query.toLowerCase().split(/[^\p{L}\p{N}&+]+/u).filter((word) => word && !SMALL.has(word));
  const stemmer = new Stemmer(), stem = (word) => stemmer.stemWord(word), found = [];
  const { indexentries, docnames, titles, filenames } = Search._index;
  for (const [entry, places] of Object.entries(indexentries)) {
    const main = places.filter(([, , isMain]) => isMain);
    const words = entry.toLowerCase().split(/[^\p{L}\p{N}&+]+/u).filter((word) => word && !SMALL.has(word)).map(stem);
    if (!main.length || !asked.length || !asked.every((word) => words.includes(stem(word)))) continue;
    for (const [file, id] of main)
      found.push([docnames[file], titles[file], id ? "#" + id : "", null, Math.round((100 * asked.length) / words.length), filenames[file], "index"]);
  }
  return found;
}

addEventListener("DOMContentLoaded", () => {  // before the search itself, whose script comes later
  if (typeof Search !== "object") return;
  const perform = Search._performSearch, terms = Search.performTermsSearch;
  let query = "";
  Search._performSearch = (...given) => ((query = given[0]), perform(...given));
  Search.performTermsSearch = (...given) => [...answers(query), ...terms(...given)];
});
