"""The processes that train together: one, or as many as ``torchrun`` started."""

from __future__ import annotations

import gc
import os
import warnings
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pix2gan.errors import ConfigError, Pix2ganError


class World:
    """What this process is among all of them. Methods that talk are called by all or by none."""

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0) -> None:
        self.rank = rank
        self.size = size
        self.local_rank = local_rank
        self.shared: weakref.WeakSet[SharedGradients] = weakref.WeakSet()
        self._failed_together = False

    @classmethod
    def of_this_process(cls) -> World:
        """As the variables say that ``torchrun`` sets, or a process group that is there already.

        Raises:
            ConfigError: If they are incomplete.
        """
        if dist.is_available() and dist.is_initialized():
            local_rank = int(os.environ.get("LOCAL_RANK", dist.get_rank()))
            return cls(dist.get_rank(), dist.get_world_size(), local_rank)
        try:
            size = int(os.environ.get("WORLD_SIZE", "1"))
            if size == 1:
                return cls()
            return cls(int(os.environ["RANK"]), size, int(os.environ["LOCAL_RANK"]))
        except (KeyError, ValueError) as error:
            raise ConfigError(
                "WORLD_SIZE is set and RANK or LOCAL_RANK is not: start with torchrun, or unset it."
            ) from error

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    @contextmanager
    def joined(self) -> Iterator[World]:
        """Meet the others, and part from them in the end.

        What lies in memory goes over gloo, what lies on GPUs over NCCL.
        """
        if self.size == 1 or dist.is_initialized():
            yield self
            return
        # Its functions have the process group that there is when they are first imported, which
        # DistributedDataParallel does, as their defaults: none, or it could never be freed.
        import torch.distributed.nn.functional

        if torch.cuda.is_available():
            torch.cuda.set_device(self.local_rank % torch.cuda.device_count())
            dist.init_process_group("cpu:gloo,cuda:nccl")
        else:
            dist.init_process_group("gloo")
        try:
            yield self
        except Exception:
            if self._failed_together:
                self._part()
            # Else the others may be in the midst of something: parting would wait for them.
            raise
        except BaseException:
            self._part()
            raise
        dist.barrier()  # nobody leaves while another one still talks
        self._part()

    def _part(self) -> None:
        """Leave the process group, and end its threads.

        Whoever holds it keeps them running. When the interpreter ends in the midst of their talk
        with a process that is gone, they end it with SIGABRT.
        """
        for shared in self.shared:
            shared.release()
        gc.collect()
        dist.destroy_process_group()

    # --- what all of them know afterwards ---

    @contextmanager
    def failing_together(self) -> Iterator[None]:
        """A Pix2ganError of one process within is raised in all, naming the process.

        All but the first raise SystemExit(2): one of them tells the reason. Nothing within may talk
        to the others.
        """
        if self.size == 1:
            yield
            return
        failure: Pix2ganError | None = None
        try:
            yield
        except Pix2ganError as error:
            failure = error
        self.raise_together(failure)

    def raise_together(self, failure: Pix2ganError | None) -> None:
        """Raise in all of them the first ``failure`` that is not None."""
        if self.size == 1:
            if failure is not None:
                raise failure
            return
        failures: list[Any] = [None] * self.size
        dist.all_gather_object(failures, None if failure is None else (type(failure), str(failure)))
        for rank, found in enumerate(failures):
            if found is not None:
                self._failed_together = True
                if not self.is_main:
                    raise SystemExit(2)
                if rank == 0 and failure is not None:
                    raise failure
                raise Pix2ganError(f"Process {rank} of {self.size}: {found[1]}")

    def largest(self, *values: int) -> list[int]:
        """The largest of each over all processes."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tensor.tolist()

    def mean(self, values: Sequence[float]) -> list[float]:
        """The mean of each over all processes."""
        if self.size == 1 or not values:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor)
        return (tensor / self.size).tolist()

    def gather(self, value: Any) -> list[Any]:
        """The value of each process, in the first; of the others only their own."""
        if self.size == 1:
            return [value]
        values: list[Any] | None = [None] * self.size if self.is_main else None
        dist.gather_object(value, values)
        return [value] if values is None else values

    def from_main(self, value: Any) -> Any:
        """The first process's ``value`` in all of them."""
        if self.size == 1:
            return value
        values = [value if self.is_main else None]
        dist.broadcast_object_list(values)
        return values[0]


class SharedGradients:
    """Makes the gradients of some networks the mean over all processes (DistributedDataParallel).

    A method calls its networks as it likes: several times, and by other names than ``forward``. So
    not the networks are wrapped but the loss: passing it through :meth:`prepare` is, for
    DistributedDataParallel, the forward pass of a module with all of their parameters.
    """

    def __init__(self, networks: Iterable[nn.Module], world: World, device: torch.device) -> None:
        self._wrapped: DistributedDataParallel | None = None
        if world.size > 1:
            with warnings.catch_warnings():
                # torch 2.13 renames the option; 2.10 does not know the new name.
                warnings.filterwarnings("ignore", message=".*broadcast_buffers", append=False)
                self._wrapped = DistributedDataParallel(
                    _Losses(networks),
                    device_ids=[device] if device.type == "cuda" else None,
                    broadcast_buffers=False,  # they follow from what is equal in all processes
                )
            world.shared.add(self)

    def release(self) -> None:
        """Let go of the process group: there will be no more gradients."""
        self._wrapped = None

    def prepare(self, loss: Tensor) -> Tensor:
        """``loss``, whose ``backward`` then waits for the other processes."""
        return loss if self._wrapped is None else self._wrapped(loss)

    def not_yet(self) -> AbstractContextManager[None]:
        """Within it gradients are summed up in this process alone."""
        return nullcontext() if self._wrapped is None else self._wrapped.no_sync()


class _Losses(nn.Module):
    def __init__(self, networks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, loss: Tensor) -> Tensor:
        return loss


def synchronise_batch_norms(networks: nn.Module, world: World) -> None:
    """Let batch norms, in training, take their statistics over the batches of all processes."""
    if world.size == 1:
        return
    for parent in list(networks.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm2d:
                shared = _SharedBatchNorm2d(child.num_features, child.eps, child.momentum)
                shared.load_state_dict(child.state_dict())
                setattr(parent, name, shared.to(child.weight.device))


class _SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over all processes, whose batches are of one size.

    Unlike ``torch.nn.SyncBatchNorm`` it also runs on a CPU.
    """

    def forward(self, x: Tensor) -> Tensor:
        # x: [N, C, H, W]
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        values = x.float()
        var, mean = torch.var_mean(values, (0, 2, 3), correction=0)
        size = dist.get_world_size()
        # Two sums, so that nothing cancels: the variance is that around the common mean.
        common = _sum(mean) / size
        spread = _sum(var + (mean - common).square()) / size
        with torch.no_grad():
            count = size * x.numel() // x.shape[1]
            self.num_batches_tracked += 1
            share = self.momentum or 1 / float(self.num_batches_tracked)
            self.running_mean.lerp_(common, share)
            self.running_var.lerp_(spread * (count / max(1, count - 1)), share)
        scale = torch.rsqrt(spread + self.eps) * self.weight
        shift = self.bias - common * scale
        return torch.addcmul(shift[:, None, None], values, scale[:, None, None]).to(x.dtype)


def _sum(x: Tensor) -> Tensor:
    result: Tensor = _Sum.apply(x)  # type: ignore[no-untyped-call]
    return result


class _Sum(torch.autograd.Function):
    """The sum over all processes; so is the gradient of it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.clone()
        dist.all_reduce(grad)
        return grad
