"""What ONNX Runtime is asked for, without a GPU: providers, options, TensorRT profiles, and refusals."""

from __future__ import annotations

import pytest

from adapters.onnx.options import CpuSettings, GpuSettings, OnnxOptions, options_for
from adapters.onnx.providers import (
    CPU,
    CUDA,
    TENSORRT,
    Gpu,
    check_installed,
    check_started,
    cuda_request,
    engine_facts,
    profiles,
    tensorrt_request,
    wants_graphs,
)
from router.domain.deployment import DeployedModel, Deployment
from router.domain.deployment_settings import MIB, Batching, Execution, Provider, Resources
from router.domain.errors import ModelUnavailable
from router.domain.model_ref import ModelRef, ResolvedModel
from serving.signature import Signature, TensorSpec

GPU = Gpu(80 * 1024**3, "sm_90, 132 multiprocessors")


def deployed(resources: Resources, execution: Execution) -> DeployedModel:
    spec = Deployment(
        "blue", "e", ModelRef("file", "/m"), resources=resources, execution=execution, batching=Batching(32)
    )
    return DeployedModel(spec, ResolvedModel("/m", "a" * 64))


def signature(*shapes: tuple[int, ...], is_batchable: bool = True) -> Signature:
    inputs = tuple(TensorSpec(f"x{at}", "FP32", shape) for at, shape in enumerate(shapes))
    return Signature(inputs, (TensorSpec("y", "FP32", (-1, 2)),), is_batchable)


def test_on_the_cpu_an_instance_gets_its_share_of_the_replica_s_cores() -> None:
    options = options_for(deployed(Resources(5.0, 0.0, 512 * MIB), Execution(instances_per_replica=2)), "/cache")
    assert options == OnnxOptions("/m", "a" * 64, CpuSettings(2, False, 512 * MIB, sessions=2), None, "/cache")


@pytest.mark.parametrize(
    ("cpu", "instances", "threads", "expected"), [(0.5, 1, 0, 1), (3.9, 1, 0, 3), (2.0, 4, 0, 1), (1.0, 1, 6, 6)]
)
def test_threads_are_at_least_one_and_as_asked_for(cpu: float, instances: int, threads: int, expected: int) -> None:
    execution = Execution(instances_per_replica=instances, threads=threads)
    assert options_for(deployed(Resources(cpu), execution), "").cpu.threads == expected


@pytest.mark.parametrize(("gpu", "instances", "share"), [(0.5, 1, 0.5), (0.5, 2, 0.25), (1.0, 1, 1.0), (1.0, 4, 0.25)])
def test_on_a_gpu_an_instance_gets_its_share_of_the_device_s_memory(gpu: float, instances: int, share: float) -> None:
    options = options_for(deployed(Resources(1.0, gpu), Execution(instances_per_replica=instances)), "")
    assert options.gpu == GpuSettings(Provider.CUDA, {}, 32, share)


def test_instances_are_dealt_out_to_the_replica_s_gpus() -> None:
    model = deployed(Resources(1.0, 2.0), Execution(instances_per_replica=3))
    settings = [options_for(model, "", instance).gpu for instance in range(3)]
    assert [(each.device_id, each.memory_share) for each in settings if each] == [(0, 0.5), (1, 0.5), (0, 0.5)]


def test_a_provider_that_is_not_installed_is_refused_with_what_to_install() -> None:
    check_installed(Provider.CUDA, [CUDA, CPU])
    with pytest.raises(ModelUnavailable, match=r"tensorrt.*onnxruntime-gpu"):
        check_installed(Provider.TENSORRT, [CUDA, CPU])


def test_a_provider_that_did_not_start_is_refused_with_what_it_needs() -> None:
    check_started(Provider.TENSORRT, [TENSORRT, CUDA, CPU])
    with pytest.raises(ModelUnavailable, match="could not start cuda: it needs an NVIDIA driver"):
        check_started(Provider.CUDA, [CPU])
    with pytest.raises(ModelUnavailable, match="TensorRT libraries"):
        check_started(Provider.TENSORRT, [CUDA, CPU])


def test_cuda_is_asked_for_with_the_cpu_behind_it() -> None:
    (first, options), second = cuda_request(GpuSettings(), GPU, has_graphs=True)
    assert (first, second) == (CUDA, (CPU, {}))
    assert options == {
        "device_id": "0",
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
        "enable_cuda_graph": "1",
    }


def test_a_fraction_of_a_gpu_limits_the_arena_to_that_part_of_its_memory() -> None:
    ((_, options), _) = cuda_request(GpuSettings(memory_share=0.25), GPU, has_graphs=False)
    assert options["gpu_mem_limit"] == str(20 * 1024**3)
    assert options["enable_cuda_graph"] == "0"


def test_the_spec_s_options_win_and_unknown_ones_are_passed_on() -> None:
    settings = GpuSettings(options={"gpu_mem_limit": "7", "use_tf32": "0", "device_id": "3"}, memory_share=0.5)
    ((_, options), _) = cuda_request(settings, GPU, has_graphs=False)
    assert (options["gpu_mem_limit"], options["use_tf32"], options["device_id"]) == ("7", "0", "3")


def test_graphs_are_tried_unless_the_spec_says_no() -> None:
    assert wants_graphs(GpuSettings())
    assert wants_graphs(GpuSettings(options={"enable_cuda_graph": "1"}))
    assert not wants_graphs(GpuSettings(options={"enable_cuda_graph": "0"}))
    assert not wants_graphs(GpuSettings(Provider.TENSORRT))


def test_profiles_span_one_row_to_the_fullest_batch_and_are_tuned_for_that() -> None:
    assert profiles(signature((-1, 64), (-1, 3, 8)), 32) == {
        "trt_profile_min_shapes": "x0:1x64,x1:1x3x8",
        "trt_profile_opt_shapes": "x0:32x64,x1:32x3x8",
        "trt_profile_max_shapes": "x0:32x64,x1:32x3x8",
    }


def test_profiles_without_batching_are_of_one_row() -> None:
    assert profiles(signature((-1, 64)), 1)["trt_profile_max_shapes"] == "x0:1x64"


def test_fixed_shapes_need_no_profile() -> None:
    assert profiles(signature((1, 64), is_batchable=False), 32) == {}


@pytest.mark.parametrize("model", [signature((-1, -1)), signature((-1, 64), is_batchable=False)])
def test_sizes_that_the_model_leaves_open_must_be_told(model: Signature) -> None:
    with pytest.raises(ModelUnavailable, match=r"x0.*trt_profile_min_shapes.*execution\.options"):
        profiles(model, 32)


def test_tensorrt_is_asked_for_with_its_caches_and_cuda_behind_it() -> None:
    settings = GpuSettings(Provider.TENSORRT, {"trt_fp16_enable": "1", "use_tf32": "0"}, 8, 0.5)
    requests = tensorrt_request(settings, GPU, signature((-1, 64)), "/cache/engines")
    assert [name for name, _ in requests] == [TENSORRT, CUDA, CPU]
    options = requests[0][1]
    assert options["trt_fp16_enable"] == options["trt_engine_cache_enable"] == options["trt_timing_cache_enable"] == "1"
    assert options["trt_engine_cache_path"] == options["trt_timing_cache_path"] == "/cache/engines"
    assert options["trt_profile_max_shapes"] == "x0:8x64"
    assert "use_tf32" not in options
    assert requests[1][1]["use_tf32"] == "0"
    assert requests[1][1]["enable_cuda_graph"] == "0"
    assert requests[1][1]["gpu_mem_limit"] == str(40 * 1024**3)


def test_profiles_of_the_spec_are_taken_as_they_are() -> None:
    own = {f"trt_profile_{part}_shapes": f"x0:{rows}x7" for part, rows in (("min", 1), ("opt", 4), ("max", 9))}
    ((_, options), *_) = tensorrt_request(GpuSettings(Provider.TENSORRT, own), GPU, None, "")
    assert own.items() <= options.items()
    assert "trt_engine_cache_path" not in options


def test_an_engine_is_good_for_one_model_software_device_and_setting_only() -> None:
    settings = GpuSettings(Provider.TENSORRT, {"trt_fp16_enable": "1"}, 8)
    facts = engine_facts("a", "1.31", "101300", GPU, settings)
    others = [
        engine_facts("b", "1.31", "101300", GPU, settings),
        engine_facts("a", "1.32", "101300", GPU, settings),
        engine_facts("a", "1.31", "101400", GPU, settings),
        engine_facts("a", "1.31", "101300", Gpu(1, "sm_80"), settings),
        engine_facts("a", "1.31", "101300", GPU, GpuSettings(Provider.TENSORRT, {}, 8)),
        engine_facts("a", "1.31", "101300", GPU, GpuSettings(Provider.TENSORRT, {"trt_fp16_enable": "1"}, 9)),
    ]
    assert facts not in others
    assert facts == engine_facts("a", "1.31", "101300", GPU, settings)
