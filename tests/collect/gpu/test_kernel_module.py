from agent.collect.gpu.kernel_module import KernelModule


def test_a_module_that_goes_and_comes_back(tmp_path):
    folder = tmp_path / "nvidia"
    module = KernelModule(folder)
    assert not module.away()
    folder.mkdir()
    module.note()
    assert not module.away()
    folder.rmdir()
    assert module.away()
    module.note()
    assert module.away()
    folder.mkdir()
    assert not module.away()


def test_where_it_is_never_seen_it_is_never_away(tmp_path):
    module = KernelModule(tmp_path / "nvidia")
    module.note()
    assert not module.away()
