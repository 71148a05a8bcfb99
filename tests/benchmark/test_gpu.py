import pytest
import torch

from llmagentos.benchmark import gpu


def test_without_a_gpu_there_is_nothing_to_tell():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    gpu.synchronise()
    gpu.clean()
    assert (gpu.device().type, gpu.allocated(), gpu.described()) == ("cpu", 0.0, {"name": "cpu"})


def test_a_product_s_rate_is_measured():
    assert gpu.product_flops(side=64) > 1e6


@pytest.mark.gpu
def test_a_gpu_is_described_and_its_products_are_below_what_its_maker_states():
    said = gpu.described()
    assert said["datasheet_tflops"] is None or 0.3 < said["measured_tflops"] / said["datasheet_tflops"] <= 1.0
    gpu.clean()  # what others left behind would be freed with ours
    before = gpu.allocated()
    held = torch.zeros(2**20, device=gpu.device())
    assert gpu.allocated() - before == pytest.approx(4.0, abs=0.1)
    del held
    gpu.clean()
    assert gpu.allocated() == before
