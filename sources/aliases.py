"""Types that the readers of files share: callbacks, bytes and paths."""

from collections.abc import Callable

from storage import FilePath as FilePath

# Takes a notice for the user, such as a file that was skipped; what it returns is ignored.
Say = Callable[[str], object]
# Called as progress(done, total) after each of `total` files.
Progress = Callable[[int, int], object]

# Contents of a file, whoever owns the memory: slices of a memoryview copy nothing.
Buffer = bytes | bytearray | memoryview
