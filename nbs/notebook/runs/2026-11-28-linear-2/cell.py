#| hide_output
import torch
from torch import nn

x = torch.randn(900, 6, generator=torch.Generator().manual_seed(0))
y = (x[:, 0] + x[:, 1] > 0).long()
train_data, valid_data = (x[:300], y[:300]), (x[300:], y[300:])
model = nn.Linear(6, 2)
