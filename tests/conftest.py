"""For all tests: how long hypothesis looks for a counterexample, and one thread, so that figures repeat."""

import torch
from hypothesis import settings

settings.register_profile("seqlab", deadline=None, max_examples=25)
settings.load_profile("seqlab")
torch.set_num_threads(1)
