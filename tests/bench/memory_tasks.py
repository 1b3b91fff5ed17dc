"Tasks of many kinds, for trying"

import torch
from torch import nn

from trainopt_nb import Task

N = 1200


class Mlp(nn.Sequential):
    def __init__(s):
        super().__init__(
            nn.Linear(512, 2048), nn.ReLU(), nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 10)
        )


class Cnn(nn.Sequential):
    def __init__(s):
        super().__init__(
            nn.Conv2d(3, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 128, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(2048, 10),
        )


class Rnn(nn.Module):
    def __init__(s, kind):
        super().__init__()
        s.rnn = kind(32, 128, num_layers=2, batch_first=True)
        s.out = nn.Linear(128, 10)

    def forward(s, x):
        return s.out(s.rnn(x)[0][:, -1])


class Block(nn.Module):
    def __init__(s, d, h):
        super().__init__()
        s.n1, s.n2 = nn.LayerNorm(d), nn.LayerNorm(d)
        s.qkv, s.proj = nn.Linear(d, 3 * d), nn.Linear(d, d)
        s.mlp = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))
        s.h = h

    def forward(s, x):
        b, t, d = x.shape
        q, k, v = (p.view(b, t, s.h, d // s.h).transpose(1, 2) for p in s.qkv(s.n1(x)).chunk(3, -1))
        y = (
            nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            .transpose(1, 2)
            .reshape(b, t, d)
        )
        x = x + s.proj(y)
        return x + s.mlp(s.n2(x))


class Gpt(nn.Module):
    def __init__(s, v=256, d=128, t=64):
        super().__init__()
        s.e, s.p = nn.Embedding(v, d), nn.Parameter(torch.zeros(t, d))
        s.b = nn.Sequential(Block(d, 4), Block(d, 4))
        s.o = nn.Linear(d, v)

    def forward(s, x):
        return s.o(s.b(s.e(x) + s.p)).transpose(1, 2)


class Enc(nn.Module):
    def __init__(s):
        super().__init__()
        s.inp = nn.Linear(16, 128)
        s.enc = nn.TransformerEncoder(nn.TransformerEncoderLayer(128, 4, 512, batch_first=True), 2)
        s.out = nn.Linear(128, 10)

    def forward(s, x):
        return s.out(s.enc(s.inp(x)).mean(1))


class Auto(nn.Sequential):
    def __init__(s):
        super().__init__(
            nn.Linear(784, 512),
            nn.ReLU(),
            nn.Linear(512, 32),
            nn.ReLU(),
            nn.Linear(32, 512),
            nn.ReLU(),
            nn.Linear(512, 784),
        )


class Res(nn.Module):
    def __init__(s, c):
        super().__init__()
        s.f = nn.Sequential(
            nn.Conv2d(c, c, 3, padding=1, bias=False),
            nn.BatchNorm2d(c),
            nn.ReLU(),
            nn.Conv2d(c, c, 3, padding=1, bias=False),
            nn.BatchNorm2d(c),
        )

    def forward(s, x):
        return torch.relu(x + s.f(x))


class ResNet(nn.Sequential):
    def __init__(s):
        super().__init__(
            nn.Conv2d(3, 32, 3, padding=1),
            Res(32),
            Res(32),
            nn.MaxPool2d(2),
            Res(32),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(32, 10),
        )


class UNet(nn.Module):
    def __init__(s):
        super().__init__()
        c = lambda a, b: nn.Sequential(
            nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.Conv2d(b, b, 3, padding=1), nn.ReLU()
        )
        s.a, s.b, s.c, s.up, s.o = (
            c(1, 16),
            c(16, 32),
            c(48, 16),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(16, 3, 1),
        )
        s.pool = nn.MaxPool2d(2)

    def forward(s, x):
        a = s.a(x)
        return s.o(s.c(torch.cat([a, s.up(s.b(s.pool(a)))], 1)))


class Embed(nn.Module):
    def __init__(s):
        super().__init__()
        s.e = nn.EmbeddingBag(100_000, 64)
        s.o = nn.Linear(64, 10)

    def forward(s, x):
        return s.o(s.e(x))


def tasks():
    g = torch.Generator().manual_seed(0)
    r = lambda *z: torch.randn(*z, generator=g)
    k = lambda top, *z: torch.randint(0, top, z, generator=g)
    y = k(10, N)
    d = lambda x, t: ((x, t), (x[: N // 2], t[: N // 2]))
    x784 = r(N, 784)
    return {
        "MLP": (Mlp, *d(r(N, 512), y)),
        "CNN": (Cnn, *d(r(N, 3, 32, 32), y)),
        "LSTM": (lambda: Rnn(nn.LSTM), *d(r(N, 64, 32), y)),
        "GRU": (lambda: Rnn(nn.GRU), *d(r(N, 64, 32), y)),
        "GPT block": (Gpt, *d(k(256, N, 64), k(256, N, 64))),
        "TransformerEncoder": (Enc, *d(r(N, 48, 16), y)),
        "autoencoder": (Auto, *d(x784, x784)),
        "ResNet": (ResNet, *d(r(N, 3, 32, 32), y)),
        "UNet": (UNet, *d(r(N, 1, 32, 32), k(3, N, 32, 32))),
        "embedding": (Embed, *d(k(100_000, N, 50), y)),
    }


def task(name):
    make, train, valid = tasks()[name]
    torch.manual_seed(0)
    return Task(make(), train, valid)
