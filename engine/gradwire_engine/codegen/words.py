"""Places in the tables of int64 words that the driver shares with Python. All counts are in words.

A *program*: a header of `HEADER_WORDS`, the addresses of the constants, then `STEP_WORDS` a step:
the kernel's address, that of its argument table, its iterations, its chunks, and 0.

A *frame*: the address of the arena, those of the constants, of the inputs and of the outputs. It
lies at the head of a run's memory, and the arena follows.

A *pool*: a header, `HELPER_WORDS` for each helper thread, of which there is one less than the
budget allows threads, and a slot of `SLOT_WORDS` for each of as many parallel runs. What different
threads write lies in different cache lines, of eight words.
"""

from __future__ import annotations

# A program's header.
HEADER_WORDS = 5
CONSTS = 0  # how many constants there are
FRAME_BYTES = 1  # from the frame to the arena
MOST_CHUNKS = 2  # the largest number of chunks of a step
HOLDS_GIL = 3  # whether it is too short for the interpreter to be released
DATA = 4  # where a NumPy array object keeps the address of its elements

STEP_WORDS = 5

# A pool's header.
BUDGET = 0  # how many threads may work at a time
CLOCK = 1  # which clock of the system is read
SPIN = 2  # nanoseconds before a thread that waits yields or sleeps
ACTIVE = 8  # how many runs are active
HELPERS = 16  # where the helpers begin

# A helper: word 0 says whether it sleeps.
HELPER_WORDS = 48
MUTEX = 8
CONDITION = 16
THREAD = 24  # its id to the system; 0: it stays where the system puts it
AWAY_FROM = 25  # the processor that it keeps away from, plus 1
PROCESSORS = 32  # a set of processors, a bit each
PROCESSORS_WORDS = 16

# A slot: word 0 is the ticket.
SLOT_WORDS = 32
DONE = 8  # how many chunks are finished
REGION = 16  # kernel, frame, arguments, count, chunks
OWNER = 24  # whether a run has it
