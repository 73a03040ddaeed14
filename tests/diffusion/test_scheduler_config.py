from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_schedulers import CHECKPOINTS, CLASSES, LCM, RAMPS, SD1, SD21, SDXL, TURBO, ZERO_SNR, scheduler_of

import mlxdiff
from mlxdiff.catalogue import SAMPLERS
from mlxdiff.diffusion.schedule import SchedulerConfig, make_schedule
from mlxdiff.errors import CheckpointError, MlxdiffError, MlxdiffWarning, RequestError, UnsupportedError

# Ours to diffusers', where the names are the same.
SAME_NAMES = (
    "prediction_type",
    "num_train_timesteps",
    "beta_schedule",
    "beta_start",
    "beta_end",
    "rescale_betas_zero_snr",
    "timestep_spacing",
    "steps_offset",
    "original_inference_steps",
    "timestep_scaling",
)


def keys_of(sampler: str) -> set[str]:
    """What the sampler's class reads."""
    return CLASSES[sampler]._get_init_keys(CLASSES[sampler])


BARE = {"_class_name": "PNDMScheduler", "skip_prk_steps": True}
CONFIGS = {**CHECKPOINTS, "bare": BARE, "bare_ddim": {"_class_name": "DDIMScheduler", "clip_sample": False}}


@pytest.mark.parametrize("sampler", CLASSES)
@pytest.mark.parametrize("name", CONFIGS)
def test_another_sampler_reads_a_file_as_diffusers_from_config(name, sampler):
    ours = SchedulerConfig.from_dict(CONFIGS[name], sampler)
    theirs = scheduler_of(CONFIGS[name], sampler)
    known = theirs._get_init_keys(type(theirs))
    compared = [key for key in SAME_NAMES if key in known]
    assert {key: getattr(ours, key) for key in compared} == {key: theirs.config[key] for key in compared}
    assert ours.sampler == sampler
    assert ours.rescale_betas_zero_snr == ("rescale_betas_zero_snr" in known and theirs.config.rescale_betas_zero_snr)
    if "set_alpha_to_one" in SAMPLERS[sampler].reading.defaults:
        assert ours.final_sigma == ("zero" if theirs.config.set_alpha_to_one else "sigma_min")
    else:
        assert ours.final_sigma == SAMPLERS[sampler].reading.fixed.get("final_sigmas_type", "zero")


@pytest.mark.parametrize(
    ("config", "sampler"),
    [
        (SD1, "pndm"),
        (SD21, "ddim"),
        (SDXL, "euler"),
        (TURBO, "euler_ancestral"),
        ({"_class_name": "HeunDiscreteScheduler"}, "heun"),
        (LCM, "lcm"),
        ({"_class_name": "DPMSolverMultistepScheduler"}, "dpmpp_2m"),
        ({"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver++"}, "dpmpp_2m"),
        ({"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++"}, "dpmpp_2m_sde"),
    ],
)
def test_the_files_class_decides_the_sampler(config, sampler):
    assert SchedulerConfig.from_dict(config).sampler == sampler


def test_the_built_in_checkpoint_is_read():
    folder = Path(mlxdiff.__file__).parent / "assets" / "emoji" / "scheduler"
    config = SchedulerConfig.from_dict(json.loads((folder / "scheduler_config.json").read_text()))
    assert (config.sampler, config.timestep_spacing, config.prediction_type) == ("ddim", "trailing", "v_prediction")
    assert config.rescale_betas_zero_snr


def test_a_missing_spacing_is_each_classs_own():
    spacings = {sampler: SchedulerConfig.from_dict(SD1, sampler).timestep_spacing for sampler in CLASSES}
    assert spacings == {sampler: scheduler_of(SD1, sampler).config.timestep_spacing for sampler in CLASSES}
    assert {spacings["ddim"], spacings["euler"]} == {"leading", "linspace"}


@pytest.mark.parametrize("ramp", RAMPS)
def test_ramps_are_read_by_the_classes_that_have_them(ramp):
    config = {**SDXL, "use_karras_sigmas": ramp == "karras", f"use_{ramp}_sigmas": True}
    for sampler in CLASSES:
        known = f"use_{ramp}_sigmas" in keys_of(sampler)
        assert SchedulerConfig.from_dict(config, sampler).ramp == (ramp if known else None), sampler


@pytest.mark.parametrize("sampler", [None, "ddim"])
@pytest.mark.parametrize("name", ["EDMEulerScheduler", "FlowMatchEulerDiscreteScheduler", "Nonsense"])
def test_a_class_with_another_noise_schedule_is_unsupported(name, sampler):
    with pytest.raises(UnsupportedError, match=name) as caught:
        SchedulerConfig.from_dict({**SD1, "_class_name": name}, sampler)
    assert ", ".join(SAMPLERS) in caught.value.remedy


@pytest.mark.parametrize("name", sorted(name for row in SAMPLERS.values() for name in row.nearest))
def test_for_a_class_without_its_solver_the_nearest_is_run_with_a_warning(name):
    config = {**SD1, "_class_name": name, "algorithm_type": "nonsense"}
    with pytest.warns(MlxdiffWarning, match=f"{name}, which is not implemented; .* is used instead"):
        nearest = SchedulerConfig.from_dict(config).sampler
    assert name in SAMPLERS[nearest].nearest
    assert SchedulerConfig.from_dict(config, "dpmpp_2m").sampler == "dpmpp_2m"  # chosen: nothing to warn of


def test_the_class_of_model_index_counts_more_than_the_files():
    config = SchedulerConfig.from_dict(SD1, class_name="EulerDiscreteScheduler")
    assert config == SchedulerConfig.from_dict(SD1, "euler")
    theirs = scheduler_of(SD1, "euler")
    assert config.timestep_spacing == theirs.config.timestep_spacing
    assert SchedulerConfig.from_dict(SD1, "heun", class_name="EulerDiscreteScheduler").sampler == "heun"
    assert SchedulerConfig.from_dict({}, class_name="PNDMScheduler").sampler == "pndm"
    with pytest.raises(UnsupportedError, match="Nonsense"):
        SchedulerConfig.from_dict(SD1, class_name="Nonsense")


def test_dpm_solvers_settings_become_options():
    config = {**SDXL, "_class_name": "DPMSolverMultistepScheduler", "solver_order": 3, "solver_type": "bh2"}
    read = SchedulerConfig.from_dict(config)
    assert dict(read.options) == {"order": 3, "solver_type": "midpoint", "lower_order_final": True}
    assert make_schedule(read, 5).options == read.options


@pytest.mark.parametrize(
    ("sampler", "key", "value"),
    [
        ("ddim", "clip_sample", True),
        ("ddim", "thresholding", True),
        ("pndm", "skip_prk_steps", False),
        ("euler", "interpolation_type", "log_linear"),
        ("euler", "timestep_type", "continuous"),
        ("ddim", "timestep_type", "continuous"),
        ("heun", "clip_sample", True),
        ("dpmpp_2m", "solver_order", 4),
        ("dpmpp_2m", "solver_order", True),
        ("dpmpp_2m", "solver_type", "euler"),
        ("dpmpp_2m_sde", "thresholding", True),
        ("dpmpp_2m", "use_flow_sigmas", True),
        ("dpmpp_2m", "use_lu_lambdas", True),
        ("dpmpp_2m", "variance_type", "learned_range"),
        ("lcm", "clip_sample", True),
        ("euler", "prediction_type", "flow_prediction"),
        ("euler", "beta_schedule", "sigmoid"),
        ("euler", "timestep_spacing", "quadratic"),
        ("euler", "final_sigmas_type", "sigma_max"),
    ],
)
def test_a_setting_that_is_not_implemented_is_named(sampler, key, value):
    with pytest.raises(UnsupportedError, match=key):
        SchedulerConfig.from_dict({**SD1, key: value}, sampler)


def test_a_setting_that_the_samplers_class_does_not_have_is_skipped():
    config = SchedulerConfig.from_dict({**SD21, "clip_sample": True, "solver_order": 3}, "euler")
    assert config == SchedulerConfig.from_dict(SD21, "euler")


def test_samplers_that_average_slopes_skip_zero_terminal_snr_as_diffusers_does():
    rescaled = {sampler for sampler in CLASSES if SchedulerConfig.from_dict(ZERO_SNR, sampler).rescale_betas_zero_snr}
    assert rescaled == {sampler for sampler in CLASSES if "rescale_betas_zero_snr" in keys_of(sampler)}
    assert rescaled & {"heun", "pndm", "dpm2", "dpm2_ancestral", "lms"} == set()
    # And so do those without a class that average slopes over sigma: from infinite noise they would blow up.
    for sampler in ("restart", "ipndm", "dpm_fast", "dpm_adaptive"):
        assert not SchedulerConfig.from_dict(ZERO_SNR, sampler).rescale_betas_zero_snr


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_train_timesteps", "1000"),
        ("num_train_timesteps", 0),
        ("num_train_timesteps", 10**12),
        ("num_train_timesteps", True),
        ("beta_start", "small"),
        ("beta_start", -0.1),
        ("beta_start", 0.5),
        ("beta_end", 1.0),
        ("beta_end", float("nan")),
        ("beta_schedule", 3),
        ("trained_betas", [0.1, 2.0]),
        ("trained_betas", [0.1, 0.2]),
        ("trained_betas", "0.1"),
        ("steps_offset", -1),
        ("steps_offset", 0.5),
        ("use_karras_sigmas", "yes"),
        ("sigma_max", -1.0),
        ("sigma_min", []),
        ("rescale_betas_zero_snr", 1),
        ("prediction_type", ["epsilon"]),
    ],
)
def test_a_value_that_makes_no_sense_is_a_damaged_checkpoint(key, value):
    with pytest.raises(CheckpointError, match="beta" if key.startswith("beta_") else key):
        SchedulerConfig.from_dict({**SDXL, key: value}, "euler")


def test_two_ramps_at_once_are_refused():
    with pytest.raises(CheckpointError, match="karras and beta"):
        SchedulerConfig.from_dict({**SDXL, "use_karras_sigmas": True, "use_beta_sigmas": True})


@pytest.mark.parametrize("mapping", [None, [], "DDIMScheduler"])
def test_a_config_that_is_no_object_is_refused(mapping):
    with pytest.raises(CheckpointError, match="not a JSON object"):
        SchedulerConfig.from_dict(mapping)


def test_a_config_without_a_class_needs_a_sampler():
    with pytest.raises(CheckpointError, match="_class_name"):
        SchedulerConfig.from_dict({})
    assert SchedulerConfig.from_dict({}, "euler").timestep_spacing == "linspace"


def test_an_unknown_sampler_is_a_bad_request():
    with pytest.raises(RequestError, match="no sampler 'ancestral'") as caught:
        SchedulerConfig.from_dict(SD1, "ancestral")
    assert ", ".join(SAMPLERS) in caught.value.remedy


def test_a_config_is_a_value():
    config = SchedulerConfig.from_dict({**SD1, "num_train_timesteps": 2, "trained_betas": [0.1, 0.2]})
    assert config.trained_betas == (0.1, 0.2)
    assert len({config, SchedulerConfig.from_dict(SD1)}) == 2
    with pytest.raises(AttributeError):
        config.sampler = "euler"  # type: ignore[misc]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(sorted(SAMPLERS)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
KEYS = sorted({*SDXL, *LCM, *SAME_NAMES, "algorithm_type", "solver_order", "final_sigmas_type", "lambda_min_clipped"})


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), JSON, max_size=4), st.sampled_from([None, *SAMPLERS]))
def test_whatever_the_file_says_the_answer_is_a_config_or_one_of_our_errors(changes, sampler):
    try:
        config = SchedulerConfig.from_dict({**SDXL, **changes}, sampler)
    except MlxdiffError:
        return
    assert hash(config) == hash(config)
    assert config.sampler in SAMPLERS
