from agent.demo.gpus.gpm import AT_FULL_LOAD, GpmSample, GpmSamples


def test_buffers_live_until_they_are_freed():
    samples = GpmSamples()
    first, second = samples.allocate(), samples.allocate()
    assert (len(samples), samples.get(first)) == (2, None)
    sample = GpmSample((0,), 1.0, 0.5)
    assert samples.put(first, sample)
    assert samples.get(first) is sample
    assert samples.free(first)
    assert (samples.free(first), samples.put(first, sample), samples.get(first)) == (False, False, None)
    assert samples.allocate() not in (first, second)


def test_assumed_ratios_are_ratios():
    assert all(0 <= ratio <= 1 for ratio in AT_FULL_LOAD.values())
