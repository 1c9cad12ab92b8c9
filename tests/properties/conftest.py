"""How hypothesis runs here: the same examples each time, nothing kept between runs, no timing."""

from hypothesis import HealthCheck, Phase, settings

settings.register_profile(
    "properties",
    derandomize=True,
    database=None,
    deadline=None,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),  # not explain, which takes minutes on the state machine
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("properties")
