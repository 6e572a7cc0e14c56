"""One thread a process: the tests are many small tensors, and two thread pools on two processors fight."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

torch.set_num_threads(1)
