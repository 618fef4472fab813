"""The layers' common docstring."""

_TEMPLATE = """Mixture Normalization over {shape} input; drop-in for ``nn.{counterpart}``.

    Every position is assigned softly to K Gaussian components, normalized by each component's
    statistics, and the results are combined:

        y = Σ_k ν_k [γ_k (x − m_k) / (√(q_k + ε) √λ̃_k) + β_k],   ν = responsibilities

    with the weighted moments m, q of the batch in training and the running statistics in eval
    (see `mixnorm_cuda.functional.mixture_normalize` for every symbol). K = 1 is Batch
    Normalization. Source: Kalayeh and Shah, TPAMI 2019, arXiv 1806.02892.

    Args:
        num_features: C, the number of channels.
        eps: ε > 0, added to every variance.
        momentum: weight of a batch in the running statistics, in [0, 1]; None averages over all
            batches so far.
        affine: learn γ and β.
        track_running_stats: keep running statistics; False estimates from each batch, in eval too.
        num_components: K ≥ 1.
        groups: G, a divisor of C. 1: one joint mixture over all channels; C: one mixture per
            channel, BatchNorm's own regions.
        estimator: where the mixture comes from in training. ``"online"``: the running statistics,
            seeded from the first batch. ``"batch"``: seeding and EM on every batch (the paper's),
            matched to the running components.
        em_iters: EM steps per batch; None is 0 for "online" and 2 for "batch".
        mixing_scale: divide by √λ̃, λ̃ = max(λ, 1e-3).
        component_affine: one pair γ, β per component, ``[K, C]``, rather than a shared ``[C]``.
        affine_init: ``"ones"``, or ``"batchnorm"``: start equal to Batch Normalization (needs
            ``component_affine=True`` and ``track_running_stats=True``).
        responsibility_grad: differentiate the responsibilities with respect to the input.
        bias: learn β; only with ``affine``.
        backend: ``"auto"``, or the name of a backend that must serve the input.
        device: of the parameters and buffers.
        dtype: of the parameters; statistics are float32, or float64 for float64.

    Shape:
        {shape}, and the output the same. Statistics: ``running_weight`` [G, K], ``running_mean``
        and ``running_var`` [K, C], ``num_batches_tracked`` [].

    Raises:
        ValueError: an argument is out of range; in forward, an input of the wrong rank or channel
            count, or with one value per channel in training.
        TypeError: in forward, a dtype that does not fit the parameters or buffers.
        BackendUnavailableError: ``backend`` cannot serve the input.
    """


def documented(shape: str, counterpart: str) -> str:
    """The docstring of the layer for ``shape`` inputs, the counterpart of ``nn.counterpart``."""
    return _TEMPLATE.format(shape=f"``{shape}``", counterpart=counterpart)
