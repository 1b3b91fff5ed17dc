// What helps somebody who searches comes first: guides, then options and magics, then the notebooks that the package is written in.
const ROOMS = { "how-to": 9, tutorials: 8, reference: 7, explanation: 5, inside: -6 };

var Scorer = {
  score: ([page, , , , score]) => score + (ROOMS[page.split("/")[0]] ?? 0),
  objNameMatch: 11, objPartialMatch: 6, objPrio: { 0: 15, 1: 5, 2: -5 }, objPrioDefault: 0,
  title: 15, partialTitle: 7, term: 5, partialTerm: 2,
};
