"""The tests of Quorra; they read as its specification."""

import os

# Tests start processes while gRPC runs in this one. Between fork and exec its handlers have hung such a process for
# ever. It is read when grpc is first imported; processes that are started do not inherit it (`clean_environment`).
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
