from agent.core.workloads import Workload
from agent.core.xid_blame import MOST_VICTIMS, slots_hit, victims
from tests.support.xids import gpu, held, kernel, mig, nvml, pod, seen, used

DIVIDED = gpu(mig=(mig(0, 1), mig(1, 2), mig(2, 2, 1)))


def test_a_gpu_is_hit_with_all_its_slices():
    assert slots_hit(nvml(79, 0), gpu()) == ("GPU-0",)
    assert slots_hit(nvml(79, 0), None) == ("GPU-0",)
    assert slots_hit(nvml(79, 0), DIVIDED) == ("GPU-0", "MIG-0", "MIG-1", "MIG-2")


def test_a_mig_instance_is_hit_alone():
    assert slots_hit(nvml(94, 0, gpu_instance=1), DIVIDED) == ("MIG-0",)
    assert slots_hit(nvml(94, 0, gpu_instance=2), DIVIDED) == ("MIG-1", "MIG-2")
    assert slots_hit(nvml(94, 0, gpu_instance=2, compute_instance=1), DIVIDED) == ("MIG-2",)
    # An instance that is not known (any more): the whole GPU may have been hit.
    assert slots_hit(nvml(94, 0, gpu_instance=9), DIVIDED) == ("GPU-0", "MIG-0", "MIG-1", "MIG-2")


def test_an_error_of_the_device_hits_holders_and_users():
    here = seen([held("GPU-0", pod("a")), held("GPU-1", pod("other"))], [used("GPU-0", 7, pod("b"))])
    assert victims(nvml(79, 0), gpu(), here) == (pod("b"), pod("a"))


def test_an_error_of_a_program_hits_that_program():
    here = seen([held("GPU-0", pod("a"))], [used("GPU-0", 7, pod("a")), used("GPU-0", 8, pod("b"))])
    assert victims(kernel(31, 0, pid=8), gpu(), here) == (pod("b"),)
    assert victims(kernel(94, 0, pid=8), gpu(), here) == (pod("b"),)
    assert victims(kernel(79, 0, pid=8), gpu(), here)[0] == pod("b")
    assert set(victims(nvml(31, 0), gpu(), here)) == {pod("a"), pod("b")}  # NVML names no process


def test_nobody_is_blamed_without_a_name():
    assert victims(nvml(79, 0), gpu(), None) == ()
    assert victims(nvml(79, 0), gpu(), seen([], [used("GPU-0", 7), used("GPU-0", 8, Workload())])) == ()


def test_the_same_workload_is_named_once_and_there_is_an_end():
    many = [used("GPU-0", pid, pod(f"p{pid // 2}")) for pid in range(100)]
    found = victims(nvml(79, 0), gpu(), seen([held("GPU-0", pod("p0"))], many))
    assert len(found) == MOST_VICTIMS == len(set(found))


def test_jobs_and_bare_containers_have_places_too():
    job, bare = Workload(job="4711"), Workload(container_id="c0ffee")
    assert victims(nvml(79, 0), gpu(), seen([], [used("GPU-0", 1, job), used("GPU-0", 2, bare)])) == (job, bare)
