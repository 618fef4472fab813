"""Which backend serves an input, by argument, by environment, and why not another."""

import pytest
import torch

from mixnorm_cuda import BackendUnavailableError, dispatch
from mixnorm_cuda.functional import mixture_norm, mixture_normalize
from mixnorm_cuda.reference import ReferenceBackend
from tests.support import TARGETS, Target, problem, same_bits


class Recorder(ReferenceBackend):
    """The reference under another name; notes what it is asked and refuses as it is told."""

    def __init__(self, name: str, missing: str | None = None, refuses: str | None = None) -> None:
        self.name = name
        self.calls: list[str] = []
        self.asked: list[tuple] = []
        self._missing, self._refuses = missing, refuses

    def missing(self):
        return self._missing

    def refuses(self, x, num_components, groups, responsibilities_given):
        self.asked.append((tuple(x.shape), num_components, groups, responsibilities_given))
        return self._refuses

    def forward(self, *args, **options):
        self.calls.append("forward")
        return super().forward(*args, **options)

    def backward(self, *args, **options):
        self.calls.append("backward")
        return super().backward(*args, **options)

    def evaluate(self, *args, **options):
        self.calls.append("evaluate")
        return super().evaluate(*args, **options)

    def evaluate_backward(self, *args, **options):
        self.calls.append("evaluate_backward")
        return super().evaluate_backward(*args, **options)


@pytest.fixture(autouse=True)
def _no_override(monkeypatch):
    monkeypatch.delenv(dispatch.ENVIRONMENT_VARIABLE, raising=False)


@pytest.fixture
def install(monkeypatch):
    """Puts a Recorder in the place of a backend."""

    def install(name: str, **options) -> Recorder:
        recorder = Recorder(name, **options)
        monkeypatch.setitem(dispatch.BACKENDS, name, recorder)
        return recorder

    return install


@pytest.mark.parametrize("wanted", TARGETS, ids=lambda target: target.id)
def test_target_takes_part(wanted: Target):
    """One skip, with the reason, for each target that the tests of this run leave out."""
    reason = wanted.unusable()
    if reason is not None:
        pytest.skip(reason)
    p = problem((4, 4, 3), 3, dtype=torch.float32, device=wanted.device)
    y, _ = mixture_normalize(p.x, *p.mixture, backend=wanted.backend)
    assert y.device.type == wanted.device


def test_every_backend_is_known_and_tested():
    assert set(dispatch.BACKENDS) == {"reference", "cpu", "triton", "cuda", "emulated"}
    assert {target.backend for target in TARGETS} == set(dispatch.BACKENDS)
    for name, backend in dispatch.BACKENDS.items():
        assert backend.name == name


@pytest.mark.parametrize("name", ["reference", "cpu", "triton", "cuda", "emulated"])
def test_missing_backend_raises_with_its_reason(name):
    reason = dispatch.BACKENDS[name].missing()
    if reason is None:
        pytest.skip(f"{name} is usable here, so there is no reason to show")
    p = problem((4, 4, 3), 3)
    with pytest.raises(BackendUnavailableError) as caught:
        mixture_normalize(p.x, *p.mixture, backend=name)
    assert f"backend='{name}'" in str(caught.value)
    assert reason in str(caught.value)
    assert any(word in reason for word in ("use ", "install", "build", "upgrade")), "how to get it"


def test_explicit_backend_that_is_missing_raises(install):
    install("triton", missing="no such compiler; install it")
    p = problem((4, 4, 3), 3)
    with pytest.raises(BackendUnavailableError, match=r"backend='triton'.*no such compiler"):
        mixture_normalize(p.x, *p.mixture, backend="triton")


def test_explicit_backend_that_refuses_raises_before_anything_changes(install):
    install("cpu", refuses="five channels are too many")
    p = problem((4, 4, 3), 3)
    running = [t.clone() for t in p.mixture]
    with pytest.raises(BackendUnavailableError, match=r"backend='cpu'.*five channels are too many"):
        mixture_norm(p.x, *running, training=True, backend="cpu")
    assert all(map(same_bits, running, p.mixture))


def test_unknown_name_raises():
    p = problem((4, 4, 3), 3)
    with pytest.raises(ValueError, match=r"backend='fast'.*'auto', 'reference'"):
        mixture_normalize(p.x, *p.mixture, backend="fast")


class TestAuto:
    def test_prefers_the_kernels_of_the_device(self, install):
        recorder = install("cpu")
        x = torch.randn(2, 4, 3)
        assert dispatch.select("auto", x, 3, 1) is recorder

    @pytest.mark.parametrize("why", ["missing", "refuses"])
    def test_falls_back_to_the_reference_and_never_raises(self, install, why):
        recorder = install("cpu", **{why: "not today"})
        p = problem((4, 4, 3), 3)
        mixture_normalize(p.x, *p.mixture)
        assert dispatch.select("auto", p.x, 3, 1) is dispatch.REFERENCE
        assert recorder.calls == []

    def test_a_device_without_kernels_gets_the_reference(self, install):
        install("cpu")
        x = torch.empty(2, 4, 3, device="meta")
        assert dispatch.select("auto", x, 3, 1) is dispatch.REFERENCE

    def test_asks_about_this_input(self, install):
        recorder = install("cpu")
        p = problem((4, 6, 3), 5, groups=2)
        mixture_normalize(p.x, *p.mixture, responsibilities=torch.rand(4, 5).double())
        assert recorder.asked[-1] == ((4, 6, 3), 5, 2, True)
        mixture_normalize(p.x, *p.mixture)
        assert recorder.asked[-1] == ((4, 6, 3), 5, 2, False)


class TestEnvironmentVariable:
    def test_replaces_auto(self, install, monkeypatch):
        recorder = install("cpu")
        monkeypatch.setenv("MIXNORM_BACKEND", "reference")
        p = problem((4, 4, 3), 3)
        mixture_normalize(p.x, *p.mixture)
        assert recorder.calls == []
        monkeypatch.setenv("MIXNORM_BACKEND", "cpu")
        mixture_normalize(p.x, *p.mixture)
        assert recorder.calls == ["forward"]

    def test_does_not_replace_an_explicit_backend(self, install, monkeypatch):
        recorder = install("cpu")
        monkeypatch.setenv("MIXNORM_BACKEND", "cpu")
        p = problem((4, 4, 3), 3)
        mixture_normalize(p.x, *p.mixture, backend="reference")
        assert recorder.calls == []

    def test_of_a_missing_backend_raises_and_names_the_variable(self, install, monkeypatch):
        install("triton", missing="no such compiler")
        monkeypatch.setenv("MIXNORM_BACKEND", "triton")
        p = problem((4, 4, 3), 3)
        with pytest.raises(BackendUnavailableError, match=r"MIXNORM_BACKEND='triton'.*no such"):
            mixture_normalize(p.x, *p.mixture)

    def test_of_an_unknown_backend_raises_and_names_the_variable(self, monkeypatch):
        monkeypatch.setenv("MIXNORM_BACKEND", "fast")
        p = problem((4, 4, 3), 3)
        with pytest.raises(ValueError, match="MIXNORM_BACKEND='fast'"):
            mixture_normalize(p.x, *p.mixture)

    def test_empty_is_auto(self, install, monkeypatch):
        recorder = install("cpu")
        monkeypatch.setenv("MIXNORM_BACKEND", "")
        p = problem((4, 4, 3), 3)
        mixture_normalize(p.x, *p.mixture)
        assert recorder.calls == ["forward"]


class TestTheBackendServesEveryPass:
    def test_training(self, install):
        recorder = install("cpu")
        p = problem((4, 4, 3), 3)
        y, _ = mixture_normalize(p.x.requires_grad_(), *p.mixture, backend="cpu")
        y.sum().backward()
        assert recorder.calls == ["forward", "backward"]

    def test_eval(self, install):
        recorder = install("cpu")
        p = problem((4, 4, 3), 3)
        y, _ = mixture_normalize(p.x.requires_grad_(), *p.mixture, training=False, backend="cpu")
        y.sum().backward()
        assert recorder.calls == ["evaluate", "evaluate_backward"]

    def test_second_derivatives_come_from_the_reference(self, install):
        recorder = install("cpu")
        p = problem((4, 4, 3), 3)
        for training in (True, False):
            recorder.calls.clear()
            y, _ = mixture_normalize(
                p.x.requires_grad_(), *p.mixture, training=training, backend="cpu"
            )
            torch.autograd.grad(y.square().sum(), p.x, create_graph=True)
            assert recorder.calls == ["forward" if training else "evaluate"]
