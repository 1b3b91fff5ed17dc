"Write the table of synonyms of the package from the files of a WordNet: `python nbs/_tools/synonyms.py /usr/share/wordnet`"

import sys
from pathlib import Path

from trainopt_nb.augment.synonyms import read_wordnet

PLACE = Path(__file__).parents[2] / "trainopt_nb" / "augment" / "synonyms.txt"
LICENCE = """\
# Words of the same meaning, one line a word, made from WordNet 3.0 by nbs/_tools/synonyms.py
#
# Permission to use, copy, modify and distribute this software and database and its documentation for any purpose and without fee or royalty is
# hereby granted, provided that you agree to comply with the following copyright notice and statements, including the disclaimer, and that the
# same appear on ALL copies of the software, database and documentation, including modifications that you make for internal use or for
# distribution.
#
# WordNet 3.0 Copyright 2006 by Princeton University. All rights reserved.
#
# THIS SOFTWARE AND DATABASE IS PROVIDED "AS IS" AND PRINCETON UNIVERSITY MAKES NO REPRESENTATIONS OR WARRANTIES, EXPRESS OR IMPLIED. BY WAY OF
# EXAMPLE, BUT NOT LIMITATION, PRINCETON UNIVERSITY MAKES NO REPRESENTATIONS OR WARRANTIES OF MERCHANTABILITY OR FITNESS FOR ANY PARTICULAR PURPOSE
# OR THAT THE USE OF THE LICENSED SOFTWARE, DATABASE OR DOCUMENTATION WILL NOT INFRINGE ANY THIRD PARTY PATENTS, COPYRIGHTS, TRADEMARKS OR OTHER
# RIGHTS.
#
# The name of Princeton University or Princeton may not be used in advertising or publicity pertaining to distribution of the software and/or
# database. Title to copyright in this software, database and any associated documentation shall at all times remain with Princeton University and
# LICENSEE agrees to preserve same.
"""


def main(folder):
    table = read_wordnet(folder)
    lines = [f"{word} {' '.join(others)}" for word, others in sorted(table.items())]
    PLACE.write_text(LICENCE + "\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(lines):,} words, {PLACE.stat().st_size / 1024:,.0f} KiB")


if __name__ == "__main__":
    main(sys.argv[1])
