"""What all tests need of the process they run in."""

import signal

# A shell starts its background jobs with SIGINT ignored, and whatever they start inherits that: the trainings, sweeps
# and servers that tests interrupt would not hear of it. A handler here means the default there.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
