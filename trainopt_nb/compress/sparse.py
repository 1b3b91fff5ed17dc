"x"

# | export
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainopt_nb.compress.machine import fixed_threads
from trainopt_nb.compress.served import TorchServed, write_weights
from trainopt_nb.compress.steps import trainable
from trainopt_nb.compress.timing import take_turns
from trainopt_nb.store.tensors import lay_out



# | export
class SparseLinear(nn.Module):
    "A linear layer whose weight is a sparse matrix"

    def __init__(self, layer: nn.Linear):
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        matrix = layer.weight.detach().to_sparse_csr()
        self.register_buffer("rows", matrix.crow_indices().to(torch.int32))
        self.register_buffer("columns", matrix.col_indices().to(torch.int32))
        self.register_buffer("values", matrix.values())
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().clone())

    @property
    def stored(self) -> int:
        "Weights that are stored"
        return len(self.values) + (0 if self.bias is None else len(self.bias))

    def forward(self, x: Tensor) -> Tensor:
        "Multiply by the sparse matrix"
        matrix = torch.sparse_csr_tensor(
            self.rows,
            self.columns,
            self.values,
            (self.out_features, self.in_features),
            check_invariants=False,
        )
        found = (matrix @ x.reshape(-1, self.in_features).T).T
        found = found if self.bias is None else found + self.bias
        return found.reshape(*x.shape[:-1], self.out_features)

    def dense(self) -> nn.Linear:
        "Return the layer as it was"
        layer = nn.Linear(self.in_features, self.out_features, self.bias is not None)
        matrix = torch.sparse_csr_tensor(
            self.rows, self.columns, self.values, (self.out_features, self.in_features)
        )
        layer.weight = nn.Parameter(matrix.to_dense())
        layer.bias = None if self.bias is None else nn.Parameter(self.bias.clone())
        return layer




# | export
def _rows_of(module, inputs, call):
    "Return the number of rows that each linear layer gets"
    found, hooks = {}, []
    for name, layer in module.named_modules():
        if type(layer) is nn.Linear:
            hooks.append(
                layer.register_forward_hook(
                    lambda _, given, __, name=name: found.update(
                        {name: given[0].numel() // given[0].shape[-1]}
                    )
                )
            )
    try:
        with torch.no_grad():
            call(module, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def use_sparse(
    module: nn.Module,  # stays as it is
    rows: Sequence[dict[str, int]],  # for each batch size: name of a linear layer -> rows that it gets
    threads: int = 1,
    seconds: float = 0.1,  # for each layer and batch size
) -> tuple[nn.Module, list[str]]:  # a copy, and the names of the layers that became sparse
    "Replace linear layers by sparse ones where these are faster at each batch size"
    copied, chosen = trainable(module).eval(), []
    for name in rows[0]:
        layer = copied.get_submodule(name)
        if (layer.weight != 0).float().mean() > 0.3:
            continue
        sparse = SparseLinear(layer)
        with torch.no_grad(), fixed_threads(threads):
            gains = []
            for each in rows:
                x = torch.randn(each[name], layer.in_features)
                times = take_turns(
                    {
                        "dense": lambda x=x, layer=layer: layer(x),
                        "sparse": lambda x=x, sparse=sparse: sparse(x),
                    },
                    seconds,
                )
                gains.append(times["sparse"].speedup(times["dense"])[1])
        if min(gains) > 1.05:
            copied.set_submodule(name, sparse)
            chosen.append(name)
    return copied, chosen
