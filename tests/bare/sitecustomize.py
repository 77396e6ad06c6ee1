"""Takes from a Python what Windows lacks; ``PYTHONPATH=tests/bare`` does so to those it starts too.

PYTHONPATH=tests/bare python -m pytest --start-method spawn --basetemp build/bare FILE…
"""

import importlib.machinery
import os
import sys
import warnings

_NAMES = """
    fork forkpty register_at_fork pread preadv pwrite pwritev posix_fadvise posix_fallocate
    sendfile link sched_getaffinity sysconf set_blocking O_NOFOLLOW O_DIRECT O_DIRECTORY
    RWF_NOWAIT O_NONBLOCK O_CLOEXEC POSIX_FADV_WILLNEED POSIX_FADV_DONTNEED
    getuid getgid geteuid mkfifo
"""


class _ImportTorch:
    """Lends torch ``register_at_fork`` while it is imported: it goes by the system's name alone."""

    def find_spec(self, name, path, target=None):
        if name != "torch":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        run = spec.loader.exec_module

        def exec_module(module):
            os.register_at_fork = lambda **_: None
            try:
                run(module)
            finally:
                del os.register_at_fork

        spec.loader.exec_module = exec_module
        return spec


for _name in {*_NAMES.split()}.intersection(dir(os)):
    delattr(os, _name)
os.supports_dir_fd = set()
warnings.filterwarnings("ignore", ".* cannot be locked")  # it is said of each folder
os.environ.setdefault("USERNAME", "user")  # Windows says so; torch asks for the number else
sys.modules["fcntl"] = None
sys.meta_path.insert(0, _ImportTorch())
