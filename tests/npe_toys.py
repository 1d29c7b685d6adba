"""Simulators of the tests: one with a posterior known exactly, one that fails in all ways."""

import os
import time

import torch

from hpcinv.simulators.base import Axis, Output, Parameter, Prior

A = torch.tensor([[1.0, 0.0], [0.5, 1.0], [0.0, 1.0]])
SIGMA = 0.3


class Linear:
    """x = A theta + noise: the posterior is Gaussian where the prior's bounds are far."""

    batched = True

    def __init__(self, fail=0.0, kill=""):
        self.fail, self.kill = fail, kill
        self.prior = Prior([Parameter("a", -3, 3, "m"), Parameter("b", -3, 3, "s")])
        self.outputs = Output("x", "m", (Axis("k", "1", (0, 1, 2)),))

    def simulate(self, theta, key):
        if self.kill and 1500 in key.ids and not os.path.exists(self.kill):
            open(self.kill, "w").close()
            os.kill(os.getpid(), 9)  # once: as a node that loses power
        x = theta.float() @ A.T
        x[key.uniform("fail", ()) < self.fail] = float("nan")
        return x

    def noise(self, x, key):
        return x + SIGMA * key.normal("instrument", x.shape[1:])

    def log_likelihood(self, theta, x):
        r = (x - theta.float() @ A.T) / SIGMA
        return -0.5 * r.square().sum(-1) - 3 * torch.tensor(SIGMA * (2 * torch.pi) ** 0.5).log()


class Frail:
    """Ids 1 to 4 raise, hang, die and give NaN; the others give their parameter."""

    batched = False

    def __init__(self):
        self.prior = Prior([Parameter("a", 0, 1, "1")])
        self.outputs = Output("x", "1", (Axis("k", "1", (0,)),))

    def simulate(self, theta, key):
        (k,) = key.ids
        if k == 1:
            raise ArithmeticError("no root")
        if k == 2:
            time.sleep(60)
        if k == 3:
            os._exit(7)
        return theta * float("nan") if k == 4 else theta
