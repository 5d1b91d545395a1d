"""Bugs in imports and exports: what is believed of a cursor, a log, a source and a medium."""

from typing import Final

from scripts.mutant import mutant

RUN, LOGS, SOURCES, FILES = (
    f"volcrypt/operations/{name}.py"
    for name in ("import_run", "import_logs", "image_sources", "new_files")
)
T_IMAGES: Final = "tests/operations/test_images.py"
T_CUT: Final = "tests/crash/test_import_power_cut.py"

IMPORTING: Final = [
    mutant(
        "the cursor of an import does not wait for the data",
        RUN,
        [f"{T_CUT}::test_what_a_cursor_covers_is_there"],
        ("        volume.flush()\n", ""),
    ),
    mutant(
        "the cursor of an import does not wait for its log",
        LOGS,
        [f"{T_CUT}::test_what_a_cursor_covers_is_there"],
        ("            os.fdatasync(self._descriptor)\n", ""),
    ),
    mutant(
        "the log of an import is believed without its chain",
        LOGS,
        [f"{T_IMAGES}::test_a_log_and_data_that_were_edited_alike"],
        ("    if chain.chain != cursor.chain:", "    if False:"),
    ),
    mutant(
        "an import does not compare what it reads back",
        RUN,
        [f"{T_IMAGES}::test_a_medium_that_gives_back_something_else"],
        ("if is_zero(piece) if digest is None else", "if True or"),
    ),
    mutant(
        "an import does not look at what should be holes",
        RUN,
        [f"{T_IMAGES}::test_a_medium_that_gives_back_something_else"],
        ("for index in data.candidate_chunks())", "for index in range(0))"),
    ),
    mutant(
        "a source that is written to is imported",
        SOURCES,
        [f"{T_IMAGES}::test_a_source_that_is_written_to"],
        ("        if self._look() != self.identity:", "        if False:"),
    ),
    mutant(
        "an exported image has its name before it is durable",
        FILES,
        [f"{T_CUT}::test_an_image_is_whole_or_not_there"],
        ("            os.fsync(descriptor)\n", ""),
    ),
]
