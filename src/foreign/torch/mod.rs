//! PyTorch's checkpoints (`.pt`, `.pth`): read in place, converted, and written, without Python and without running anything.
