"""What torch does within a `with`, and which memory of it is still there."""

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode


class Operations(TorchDispatchMode):
    """Counts operations, and knows the memory that their results lie in."""

    def __init__(self):
        super().__init__()
        self.names, self.made = [], {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.names.append(func.overloadpacket.__name__)
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.made[StorageWeakRef(storage).cdata] = StorageWeakRef(storage), storage.nbytes()
        return result

    def count(self, *names):
        return sum(self.names.count(name) for name in names)

    def held(self, *but):
        """Count the bytes that were made here and are there still, but for these tensors."""
        known = {StorageWeakRef(t.untyped_storage()).cdata for t in but}
        return sum(
            size for key, (ref, size) in self.made.items() if key not in known and not ref.expired()
        )
