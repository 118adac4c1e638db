import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from agent.core.attribution.shares import Who
from agent.core.workloads import Claim, SlotUser, Workload
from exporters.dcgm_entity import Entity
from exporters.dcgm_labels import HolderIndex, configured, gpu_instance_profile, identity, of_pod, pairs
from tests.support.dcgm import CHAT, EMBED, gpu, held, holding, in_mig_mode, mig

WHOLE = Entity(gpu=gpu(), slots=("GPU-0",))
CLAIM = Claim(name="one-gpu", namespace="inference", driver="gpu.nvidia.com", pool="node-1", device="gpu-0")


@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), st.text()))
def test_any_label_value_is_read_back(labels):
    page = f'x{{a_first_label=""{pairs(labels)}}} 1\n'.replace('{a_first_label="",', "{")
    (family,) = text_string_to_metric_families(page)
    wanted = {name: value for name, value in labels.items() if value}
    assert {k: v for k, v in family.samples[0].labels.items() if k != "a_first_label"} == wanted


def test_identity_is_in_dcgm_exporters_order():
    assert identity(WHOLE, "node-1", "Hostname") == (
        'gpu="0",UUID="GPU-0",pci_bus_id="00000000:1A:00.0",device="nvidia0",'
        'modelName="NVIDIA H100 80GB HBM3",Hostname="node-1"'
    )
    device = mig(7, profile="1c.3g.40gb")
    entity = Entity(gpu=in_mig_mode(1, device), instance=device)
    assert identity(entity, "n", "both").endswith('GPU_I_PROFILE="3g.40gb",GPU_I_ID="7",Hostname="n",hostname="n"')
    assert identity(Entity(gpu=gpu(pci_bus_id=None)), "n", "hostname").startswith('gpu="0",UUID="GPU-0",device=')


@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        ("classic", ',DCGM_FI_DRIVER_VERSION="590.48.01"'),
        ("4.6", ',DCGM_FI_SYSTEM_DRIVER_VERSION="590.48.01"'),
        ("both", ',DCGM_FI_DRIVER_VERSION="590.48.01",DCGM_FI_SYSTEM_DRIVER_VERSION="590.48.01"'),
    ],
)
def test_the_drivers_version_is_a_label(profile, expected):
    assert configured(WHOLE, profile) == expected
    assert configured(WHOLE, profile, {"xid": "79", "window": "1"}) == f'{expected},window="1",xid="79"'
    assert configured(Entity(gpu=gpu(driver_version=None)), profile) == ""


@pytest.mark.parametrize(("mig_device", "instance"), [("1g.10gb", "1g.10gb"), ("1c.3g.40gb", "3g.40gb"), ("", "")])
def test_profiles_of_compute_instances_are_those_of_their_gpu_instance(mig_device, instance):
    assert gpu_instance_profile(mig_device) == instance


def holders(entity, *holdings, **attributes):
    found = HolderIndex(held(*holdings, **attributes)).of(entity)
    return [holder.text() for holder in found.all], found.alone


def test_without_attribution_nobody_holds_anything():
    assert HolderIndex(None).of(WHOLE).all == ()
    assert holders(WHOLE) == ([], False)
    assert holders(WHOLE, holding("GPU-1", CHAT)) == ([], False)


def test_one_holder_has_all_of_it():
    text = ',container="vllm",namespace="inference",pod="chat-0",pod_uid="11111111-2222"'
    assert holders(WHOLE, holding("GPU-0", CHAT)) == ([text], True)
    unnamed = Workload(pod_uid="11111111-2222")
    assert holders(WHOLE, holding("GPU-0", unnamed)) == ([',pod="11111111-2222",pod_uid="11111111-2222"'], True)


def test_replicas_are_shared_even_while_one_holds_some():
    texts, alone = holders(WHOLE, holding("GPU-0", CHAT, "3"))
    assert texts[0].endswith('pod_uid="11111111-2222",vgpu="3"')
    assert not alone
    texts, alone = holders(WHOLE, holding("GPU-0", CHAT, "1"), holding("GPU-0", CHAT, "2"), replicas={"GPU-0": 4})
    assert len(texts) == 1
    assert "vgpu" not in texts[0]
    assert not alone


def test_several_holders_are_in_a_fixed_order():
    texts, alone = holders(WHOLE, holding("GPU-0", EMBED), holding("GPU-0", CHAT))
    assert [text.split('pod="')[1][:7] for text in texts] == ['chat-0"', "embed-0"]
    assert not alone


def test_a_claim_is_told_in_order():
    text = (
        ',container="vllm",dra_claim_name="one-gpu",dra_claim_namespace="inference",dra_device_name="gpu-0",'
        'dra_driver_name="gpu.nvidia.com",dra_pool_name="node-1",namespace="inference",pod="chat-0",'
        'pod_uid="11111111-2222"'
    )
    assert holders(WHOLE, holding("GPU-0", CHAT, claim=CLAIM)) == ([text], True)
    device = mig(2)
    entity = Entity(gpu=in_mig_mode(0, device), instance=device, slots=(device.uuid,))
    texts, _ = holders(entity, holding("MIG-2-0", CHAT, claim=CLAIM))
    assert (
        'dra_driver_name="gpu.nvidia.com",dra_mig_device_uuid="MIG-2-0",dra_mig_profile="3g.40gb",dra_pool' in texts[0]
    )


def test_holders_of_any_device_of_a_gpu_instance():
    devices = (mig(2, 0), mig(2, 1))
    entity = Entity(gpu=in_mig_mode(0, *devices), instance=devices[0], slots=("MIG-2-0", "MIG-2-1"))
    assert holders(entity, holding("MIG-2-0", CHAT), holding("MIG-2-1", CHAT))[1]
    assert not holders(entity, holding("MIG-2-0", CHAT), holding("MIG-2-1", EMBED))[1]


def test_jobs_are_named_where_no_pod_holds_it():
    def runs(pid: int, **workload: str) -> SlotUser:
        return SlotUser(slot="GPU-0", pid=pid, workload=Workload(**workload))

    users = (runs(1, job="4711"), runs(2, job="4711"), runs(3), SlotUser(slot="GPU-0", pid=4))
    assert holders(WHOLE, users=users) == ([',hpc_job="4711"'], True)
    two = (*users, runs(5, job="0815"))
    assert holders(WHOLE, users=two) == ([',hpc_job="0815"', ',hpc_job="4711"'], False)
    texts, _ = holders(WHOLE, holding("GPU-0", CHAT), users=two)
    assert "hpc_job" not in texts[0]


def test_a_pods_name_is_enough_where_one_of_its_containers_holds():
    vllm, sidecar, other = Who("n", "p", "vllm"), Who("n", "p", "side"), Who("n", "q", "vllm")
    assert of_pod(vllm, [vllm, other])
    assert not of_pod(vllm, [vllm, sidecar, other])
