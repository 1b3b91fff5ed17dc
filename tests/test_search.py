"How a sweep searches: its limits, its samplers and pruners, and the choice among them"

import math
import random
import re
import sys
import warnings

import optuna
import pytest
from optuna.trial import TrialState

from trainopt_nb.base.errors import OptionError
from trainopt_nb.base.flags import parse_flags, split
from trainopt_nb.base.help_text import help_text
from trainopt_nb.base.options import Dimension, declared
from trainopt_nb.notebook.verbs import CellOptions
from trainopt_nb.panels.form_fields import field_text, read
from trainopt_nb.search.budget import plan_budget
from trainopt_nb.search.choose import choose, choose_sampler
from trainopt_nb.search.dimensions import holds
from trainopt_nb.search.grid import GridSampler, combinations, grid_values
from trainopt_nb.search.options import PRUNER_NAMES, SAMPLER_NAMES, Goal, SweepOptions
from trainopt_nb.search.pruned_gp import PrunedGPSampler
from trainopt_nb.search.pruners import PRUNERS, choose_pruner, make_pruner
from trainopt_nb.search.samplers import SAMPLERS, Search, make_sampler
from trainopt_nb.search.space import Space
from trainopt_nb.task.train_options import TrainOptions


@pytest.fixture(autouse=True)
def _quiet():
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a warning of Optuna would reach the user's notebook
        yield
    optuna.logging.set_verbosity(before)


def many(dimensions, step=None):
    return Space({f"x{i}": Dimension("float", 0.0, 1.0, step=step) for i in range(dimensions)})


def wide():
    return Space(
        {
            "lr": Dimension("float", 1e-5, 1.0, log=True),
            "decay": Dimension("float", 0.0, 1.0),
            "schedule": Dimension("choice", choices=("none", "cosine", "linear")),
        }
    )


def small():
    return Space(
        {"width": Dimension("int", 1, 4), "schedule": Dimension("choice", choices=("none", "cosine"))}
    )


def loss(values):  # 0 at lr 1e-3, decay 0.4, cosine
    far = (math.log10(values["lr"]) + 3) ** 2 / 4 + 4 * (values["decay"] - 0.4) ** 2
    return far + (values["schedule"] != "cosine")


def searched(sampler, space, trials, goal=loss, study=None):
    "Ask and tell, and return the study"
    study = study or optuna.create_study(sampler=sampler)
    for _ in range(trials):
        trial = study.ask()
        study.tell(trial, goal(space.draw(trial)))
    return study


# ---- options


@pytest.mark.parametrize(
    "line, name, value",
    [
        ("--time 10m", "time", 600.0),
        ("--time 1h30m", "time", 5400.0),
        ("--time 90s", "time", 90.0),
        ("--time 90", "time", 90.0),
        ("--time '1 H 5 m'", "time", 3900.0),
        ("--time 1.5h", "time", 5400.0),
        ("--time 2d", "time", 172_800.0),
        ("--budget 20%", "budget", 0.2),
        ("--budget 0.2", "budget", 0.2),
        ("--budget 10x", "budget", 10.0),
        ("-j 4", "jobs", 4),
        ("-j4", "jobs", 4),
        ("-j=4", "jobs", 4),
        ("--jobs 4", "jobs", 4),
        ("--coarse-to-fine", "coarse_to_fine", True),
        ("--batch-trials off", "batch_trials", "off"),
        ("--goal accuracy --goal size:min", "goal", ("accuracy", "size:min")),
    ],
)
def test_limits_are_read_as_they_are_typed(line, name, value):
    assert parse_flags(split(line), SweepOptions, TrainOptions) == (
        {name: pytest.approx(value) if isinstance(value, float) else value},
        [],
    )
    assert declared(SweepOptions)[name].check(value) == value


@pytest.mark.parametrize(
    "line",
    ["--trials 0", "--trials many", "--time soon", "--time 5m1h", "--time m", "--time -1", "--time inf", "--time nan", "--time 0", "--budget 20%%",
     "--budget 0", "--budget -5%", "--budget x", "--budget inf", "--budget nan%", "-j 0", "-jx", "-j", "--goal ,", "--repeats -1", "--batch-trials maybe"],
)  # fmt: skip
def test_a_wrong_limit_is_refused_in_one_sentence(line):
    with pytest.raises(OptionError) as error:
        SweepOptions.of(**parse_flags(split(line), SweepOptions)[0])
    said = str(error.value)
    assert "\n" not in said and said.startswith(f"--{'jobs' if '-j' in line else line[2:].split()[0]} ")


@pytest.mark.parametrize("goal", ["size:least", ":min", "a,a", "a:min,a:max"])
def test_a_wrong_goal_is_refused(goal):
    with pytest.raises(OptionError, match="--goal"):
        SweepOptions(goal=goal)


def test_goals_have_directions_where_they_are_given():
    assert SweepOptions(goal=("accuracy", "size : MIN")).goals == (Goal("accuracy", ""), Goal("size", "min"))
    assert SweepOptions().goals == ()


def test_options_of_a_sweep_stand_beside_those_of_a_training():
    mine = set(declared(SweepOptions))
    assert not mine & (set(declared(TrainOptions)) | set(declared(CellOptions)))
    assert "-j, --jobs" in help_text(SweepOptions)
    assert parse_flags(["-j"], TrainOptions) == (
        {},
        ["-j"],
    )  # a letter means something only where it is declared
    assert parse_flags(["--storage", "-j"], SweepOptions)[0] == {"storage": "-j"}


@pytest.mark.parametrize("name", declared(SweepOptions))
def test_each_option_is_a_control_too(name):
    option = declared(SweepOptions)[name]
    values = {
        "time": 5400.0,
        "budget": 0.2,
        "goal": ("accuracy", "size:min"),
        "sampler": "cmaes",
        "pruner": "halving:4",
        "repeats": 3,
    }
    for value in (option.default, values.get(name, option.default)):
        assert read(option, field_text(option, value)) == value
    assert option.help and option.help[-1] != "." and option.group == "Sweep"


def test_a_sweep_without_a_limit_has_one():
    assert [
        SweepOptions(**each).most_trials
        for each in ({}, {"time": 5}, {"budget": 2}, {"trials": 7, "time": 5})
    ] == [50, None, None, 7]


def test_names_of_samplers_and_pruners_are_those_of_the_registries():
    assert SAMPLER_NAMES == ("auto", *SAMPLERS)
    assert [name.partition(":")[0] for name in PRUNER_NAMES] == ["auto", *PRUNERS]
    for name in PRUNER_NAMES[1:]:
        make_pruner(name, reports=20)
    sampler, pruner = optuna.samplers.RandomSampler(seed=1), optuna.pruners.MedianPruner()
    own = SweepOptions(sampler=sampler, pruner=pruner)
    assert own.sampler is sampler and own.pruner is pruner
    assert own.plain()["pruner"] == "optuna.pruners._median.MedianPruner"
    with pytest.raises(OptionError, match="--sampler"):
        SweepOptions(sampler=5)


# ---- samplers


def best_of(name, seed, trials):
    sampler = make_sampler(name, Search(wide(), seed, trials=trials)).sampler
    return searched(sampler, wide(), trials).best_value


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name not in ("grid", "random")])
def test_each_sampler_finds_a_better_value_than_random(name):
    trials, seeds = (16, range(1)) if name == "gp" else (40, range(3))
    mine, at_random = (sum(best_of(each, seed, trials) for seed in seeds) for each in (name, "random"))
    assert mine < at_random


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_same_seed_gives_the_same_trials_and_a_sweep_that_goes_on_gives_others(name):
    def drawn(**more):
        made = make_sampler(name, Search(wide(), trials=12, **more))
        return [trial.params for trial in searched(made.sampler, wide(), 12).trials]

    first = drawn(seed=3)
    assert first == drawn(seed=3)
    assert first != drawn(seed=4)
    if name not in ("grid", "quasi-random"):  # these know from the study where they are
        assert first[0] != drawn(seed=3, begun=12)[0]


@pytest.mark.parametrize("name", ["grid", "quasi-random"])
def test_a_sequence_goes_on_where_it_was(name):
    made = lambda begun: make_sampler(name, Search(wide(), 5, trials=12, begun=begun)).sampler
    whole = [trial.params for trial in searched(made(0), wide(), 12).trials]
    study = searched(made(0), wide(), 7)
    study.sampler = made(7)
    searched(None, wide(), 5, study=study)
    parts = [trial.params for trial in study.trials]
    assert sorted(map(str, parts)) == sorted(map(str, whole)) and parts[:7] == whole[:7]


@pytest.mark.parametrize(
    "name, more, said",
    [
        ("tpee", {}, "Did you mean 'tpe'"),
        ("cmaes", {"objectives": 2}, "one objective.*use tpe, gp, nsga2 or nsga3"),
        ("cmaes", {"space": small()}, "at least two ranges"),
        ("grid", {"space": None}, "needs a space"),
        ("grid", {"conditional": True}, "lr=A|B|C"),
        ("grid", {"space": many(30)}, "would have 1,073,741,824 combinations"),
        ("grid", {"space": many(6, step=0.01)}, "at most 100,000 are possible: search fewer values"),
        ("grid", {"space": many(1, step=1e-9)}, "would have 1,000,000,000 combinations"),
        ("grid", {"space": many(1, step=1e-9), "conditional": True}, "x0=A|B|C"),
        (optuna.samplers.TPESampler, {}, "TPESampler\\(seed=1\\)"),
    ],
)
def test_a_sampler_that_cannot_search_this_is_refused_in_one_sentence(name, more, said):
    with pytest.raises(OptionError, match=said) as error:
        make_sampler(name, Search(**{"space": wide(), **more}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name, package", [("gp", "scipy"), ("quasi-random", "scipy"), ("cmaes", "cmaes")])
def test_a_missing_package_is_named_with_the_line_that_installs_it(monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(OptionError, match=f"needs {package}.*pip install 'trainopt_nb\\[samplers\\]'.*conda"):
        make_sampler(name, Search(wide()))


def test_choices_beside_cmaes_are_learned_too():
    made = make_sampler("cmaes", Search(wide(), seed=1, trials=60))
    study = searched(made.sampler, wide(), 60)
    assert made.note == "TPE chooses schedule, because CMA-ES takes only numbers"
    assert sum(trial.params["schedule"] == "cosine" for trial in study.trials[30:]) > 20


def test_a_sampler_of_the_users_and_one_of_another_package_are_taken():
    own = optuna.samplers.RandomSampler(seed=1)
    assert make_sampler(own, Search(wide())).sampler is own
    try:
        SAMPLERS.register("mine", lambda search: make_sampler("random", search))
        assert isinstance(make_sampler("mine", Search(wide())).sampler, optuna.samplers.RandomSampler)
    finally:
        SAMPLERS.remove("mine")


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name not in ("cmaes", "gp")])
def test_samplers_search_for_several_objectives(name):
    sampler = make_sampler(name, Search(wide(), objectives=2, trials=30)).sampler
    study = optuna.create_study(sampler=sampler, directions=["minimize", "minimize"])
    searched(sampler, wide(), 30, lambda values: (values["decay"] ** 2, (values["decay"] - 1) ** 2), study)
    assert len(study.trials) == 30 and len(study.best_trials) > 3


# ---- grid


def test_a_grid_finds_the_best_combination():
    space = Space(
        {
            **wide(),
            "decay": Dimension("float", 0.0, 1.0, step=0.2),
            "lr": Dimension("float", 1e-5, 1e-1, log=True),
        }
    )
    sampler = make_sampler("grid", Search(space, seed=1, trials=54)).sampler
    assert sampler.size == 54 and searched(sampler, space, 54).best_value == pytest.approx(0, abs=1e-9)
    assert all(searched(optuna.samplers.RandomSampler(seed=s), space, 54).best_value > 1e-3 for s in range(3))


@pytest.mark.parametrize(
    "trials, sizes", [(3, [2, 2, 3]), (12, [2, 2, 3]), (27, [3, 3, 3]), (50, [4, 4, 3]), (1000, [18, 18, 3])]
)
def test_a_grid_fits_into_the_trials(trials, sizes):
    values = grid_values(wide(), trials)
    assert [len(each) for each in values.values()] == sizes
    assert values["lr"][0] == 1e-5 and values["lr"][-1] == 1.0
    assert all(holds(wide()[name], value) for name, each in values.items() for value in each)


def test_a_grid_has_every_step_and_no_number_twice():
    space = Space(
        {
            "n": Dimension("int", 1, 3),
            "log": Dimension("int", 1, 64, log=True),
            "step": Dimension("float", 0.1, 0.7, step=0.2),
        }
    )
    values = grid_values(space, 500)
    assert values["n"] == [1, 2, 3] and values["step"] == [0.1, 0.3, 0.5, 0.7]
    assert values["log"] == sorted(set(values["log"])) and values["log"][-1] == 64
    assert all(holds(space[name], value) for name, each in values.items() for value in each)
    assert combinations(space) == 3 * 64 * 4
    assert math.prod(map(len, grid_values(small(), 10_000).values())) == combinations(small()) == 8


def test_a_grid_is_tried_whole_beside_a_trial_given_by_hand():
    sampler = GridSampler(grid_values(small(), 8), seed=0)
    study = optuna.create_study(sampler=sampler)
    study.enqueue_trial({"width": 3})
    tried = set()
    while not sampler.exhausted:
        trial = study.ask()
        values = small().draw(trial)
        study.tell(trial, 0.0)
        tried.add((values["width"], values["schedule"]))
        assert len(study.trials) < 12
    assert len(tried) == 8 and study.trials[0].params["width"] == 3


def test_a_grid_follows_conditions():
    space = small()
    found = choose(
        space, SweepOptions(sampler="grid"), plan_budget(SweepOptions(), None, epochs=1), define_by_run=True
    )
    study = optuna.create_study(sampler=found.sampler)
    while not found.sampler.exhausted:
        trial = study.ask()
        if space.suggest(trial, "schedule") == "cosine":
            space.suggest(trial, "width")
        study.tell(trial, 0.0)
    assert len({tuple(sorted(trial.params.items())) for trial in study.trials}) == len(study.trials) == 5


# ---- pruners


def trained(study, figures):
    "Return after how many reports a trial ended"
    trial = study.ask()
    for step, figure in enumerate(figures, 1):
        trial.report(figure, step)
        if step < len(figures) and trial.should_prune():
            study.tell(trial, state=TrialState.PRUNED)
            return step
    study.tell(trial, figures[-1])
    return len(figures)


def curve(quality, length=16):
    "A figure that rises for a while and then stands still"
    return [quality * min(step, length // 2) for step in range(1, length + 1)]


@pytest.mark.parametrize("direction, sign", [("maximize", 1), ("minimize", -1)])
@pytest.mark.parametrize(
    "name", ["median", "rank", "rank:50", "percentile:25", "halving", "halving:2", "hyperband", "patience:3"]
)
def test_each_pruner_ends_a_bad_trial_and_keeps_a_good_one(name, direction, sign):
    pruner = make_pruner(name, reports=16).pruner
    study = optuna.create_study(study_name="fixed", direction=direction, pruner=pruner)
    for quality in (1.0, 1.1, 1.2, 1.3, 1.4, 1.5):
        trained(study, [sign * figure for figure in curve(quality)])
    assert [trained(study, [sign * figure for figure in curve(q)]) for q in (2.0, 2.1)] == [16, 16]
    assert min(trained(study, [sign * figure for figure in curve(0.1)]) for _ in range(3)) < 16
    assert study.best_value == sign * 2.1 * 8


def test_without_a_pruner_each_trial_ends_by_itself():
    study = optuna.create_study(pruner=make_pruner("none", reports=16).pruner)
    assert [trained(study, curve(quality)) for quality in (1, 9, 1, 9)] == [16] * 4


@pytest.mark.parametrize(
    "text, said",
    [
        ("medain", "Did you mean 'median'"),
        ("median:3", "takes no number"),
        ("percentile:abc", "1 to 99"),
        ("percentile:100", "1 to 99"),
        ("halving:0", "whole number from 1"),
        ("halving:1.5", "whole number from 1"),
        ("patience:", "whole number from 1"),
        ("halving:nan", "whole number from 1"),
        ("", "There is no pruner"),
        (optuna.pruners.MedianPruner, "MedianPruner\\(\\)"),
    ],
)
def test_a_wrong_pruner_is_refused_in_one_sentence(text, said):
    with pytest.raises(OptionError, match=said) as error:
        make_pruner(text, reports=16)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", PRUNERS)
def test_the_share_of_a_trial_is_what_its_trials_train(name):
    "At most, so that a plan does not promise more trials than there will be; trials come in random order"
    reports, order = 32, random.Random(0)
    study = optuna.create_study(
        study_name="fixed", direction="maximize", pruner=make_pruner(name, reports).pruner
    )
    lengths = [trained(study, curve(order.random(), reports)) for _ in range(150)]
    trained_share = sum(lengths[20:]) / len(lengths[20:]) / reports
    expected = PRUNERS[name].share(None, reports)
    assert trained_share <= expected + 0.1
    if name in ("none", "halving"):
        assert trained_share == pytest.approx(expected, abs=0.1)


# ---- the choice


@pytest.mark.parametrize(
    "space, trials, objectives, name, said",
    [
        (None, 50, 1, "tpe", "draws its own values"),
        (small(), 8, 1, "grid", "All 8 combinations fit into 8 trials"),
        (small(), 7, 1, "tpe", "8 combinations .* grid of 7 trials"),
        (small(), None, 1, "tpe", "8 combinations"),
        (wide(), 10, 1, "tpe", "grid of 10 trials"),
        (wide(), 30, 1, "tpe", "2 ranges and 1 choice have too many combinations for a grid of 30 trials"),
        (wide(), 31, 1, "tpe", "2 ranges and 1 choice have too many combinations for a grid of 31 trials"),
        (wide(), 30, 2, "tpe", "grid of 30 trials"),
        (wide(), 50, 1, "tpe", "2 ranges and 1 choice have too many combinations for a grid of 50 trials"),
        (many(1), 8, 1, "tpe", "1 range has too many values for a grid of 8 trials"),
        (many(1, step=1e-9), 10**6, 1, "tpe", "1,000,000,000 combinations are too many"),
        (many(2, step=1 / 512), 10**6, 1, "tpe", "263,169 combinations are too many"),
        (wide(), 300, 2, "tpe", "300 trials"),
        (wide(), 2000, 2, "nsga2", "2000 trials for 2 objectives"),
        (wide(), 2000, 4, "nsga3", "2000 trials for 4 objectives"),
    ],
)
def test_the_sampler_follows_space_and_budget(space, trials, objectives, name, said):
    found, reason = choose_sampler(Search(space, trials=trials, objectives=objectives))
    assert found == name and re.search(said, reason) and reason.endswith(".")


@pytest.mark.parametrize(
    "reports, trainings, objectives, name",
    [
        (3, 5, 1, "none"),
        (20, 5, 2, "none"),
        (20, 5, 1, "halving:4"),
        (5, 5, 1, "halving:2"),
        (20, 12, 1, "halving:4"),
        (20, 30, 1, "rank"),
        (20, None, 1, "rank"),
    ],
)
def test_the_pruner_follows_the_budget(reports, trainings, objectives, name):
    found, reason = choose_pruner(reports, trainings, objectives)
    assert found == name and reason.endswith(".")


@pytest.mark.parametrize(
    "direction, sign", [("minimize", 1), pytest.param("maximize", -1, marks=pytest.mark.slow)]
)
def test_a_gaussian_process_learns_from_trials_that_were_ended_early(direction, sign):
    def ended(sampler):
        "Return how many of ten trials are where each trial is ended early"
        study = optuna.create_study(sampler=sampler, direction=direction)
        for _ in range(22):
            trial = study.ask()
            place = trial.suggest_float("x", 0, 1)
            trial.report(sign * (50 if place > 0.9 else math.nan if place > 0.8 else place), 1)
            if place > 0.5:
                study.tell(trial, state=TrialState.PRUNED)
            else:
                study.tell(trial, sign * (place - 0.4) ** 2)
        return sum(trial.params["x"] > 0.5 for trial in study.trials[12:])

    plain = optuna.samplers.GPSampler(seed=1, n_startup_trials=3, warn_independent_sampling=False)
    assert ended(plain) >= 8  # Optuna's proposes it again and again
    own = PrunedGPSampler(seed=1, n_startup_trials=3, warn_independent_sampling=False)
    assert ended(own) <= 2


def test_without_pruned_trials_a_gaussian_process_is_optunas():
    plain = optuna.samplers.GPSampler(seed=4, warn_independent_sampling=False)
    own = make_sampler("gp", Search(wide(), seed=4)).sampler
    trials = [[each.params for each in searched(sampler, wide(), 14).trials] for sampler in (plain, own)]
    assert trials[0] == trials[1]


def test_the_choice_says_both_and_follows_the_space():
    options = SweepOptions(trials=35)
    found = choose(wide(), options, plan_budget(options, None, epochs=20), seed=2)
    assert (found.sampler_name, found.pruner_name, found.trials, found.finalists, found.repeats) == (
        "tpe",
        "rank",
        35,
        0,
        0,
    )
    study = searched(found.sampler, wide(), 20)
    alone = searched(optuna.samplers.TPESampler(seed=2), wide(), 20)
    assert [t.params for t in study.trials] == [t.params for t in alone.trials]
    found.sampler.change(wide().narrow("decay", 0.3, 0.5))
    searched(found.sampler, found.sampler.space, 10, study=study)
    assert all(0.3 <= trial.params["decay"] <= 0.5 for trial in study.trials[20:])


@pytest.mark.parametrize("pruner", ["hyperband", "halving"])
def test_pruners_work_in_a_space_that_changes(pruner):
    options = SweepOptions(trials=30, pruner=pruner)
    found = choose(wide(), options, plan_budget(options, None, epochs=9))
    study = optuna.create_study(study_name="fixed", sampler=found.sampler, pruner=found.pruner)
    for number in range(30):
        if number == 15:
            found.sampler.change(wide().keep("schedule", "cosine", "none").narrow("lr", high=1e-2))
        trial = study.ask()
        quality = loss(found.sampler.space.draw(trial))
        for step in range(1, 10):
            trial.report(quality + 1 / step, step)
            if step < 9 and trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            study.tell(trial, quality)
    states = [trial.state for trial in study.trials]
    assert set(states) == {TrialState.PRUNED, TrialState.COMPLETE}
    assert all(trial.params["lr"] <= 1e-2 for trial in study.trials[15:])


@pytest.mark.parametrize(
    "options, expected",
    [({}, (135, None, 5, 3)), ({"trials": 60}, (55, 55, 5, 1)), ({"sampler": "grid"}, (147, 147, 0, 0))],
)
def test_where_only_the_time_ends_a_sweep_the_number_of_trials_is_an_estimate(options, expected):
    asked = SweepOptions(time="1h", **options)
    found = choose(wide(), asked, plan_budget(asked, 60.0, epochs=20))
    assert (found.trials, found.most, found.finalists, found.repeats) == expected


def test_a_grid_that_was_asked_for_is_its_own_limit():
    many = Space({"a": Dimension("int", 1, 10), "b": Dimension("choice", choices=tuple(range(12)))})
    plan = lambda **options: choose(
        many, SweepOptions(sampler="grid", **options), plan_budget(SweepOptions(**options), None, epochs=1)
    )
    steps = Space({"a": Dimension("int", 0, 90, step=10), "b": Dimension("choice", choices=tuple(range(12)))})
    whole = choose(steps, SweepOptions(sampler="grid"), plan_budget(SweepOptions(), None, epochs=1))
    assert whole.trials == 120 and plan().trials == 48 and plan(trials=30).trials == 24
    part = choose(
        steps, SweepOptions(sampler="grid", trials=30), plan_budget(SweepOptions(trials=30), None, epochs=1)
    )
    assert part.trials == 30 and "30 of its 120 combinations" in part.sampler_reason


def test_a_pruner_is_left_out_for_several_objectives_and_this_is_said():
    options = SweepOptions(trials=40, pruner="halving:2", sampler=optuna.samplers.RandomSampler(seed=0))
    found = choose(wide(), options, plan_budget(options, None, epochs=20), objectives=2)
    assert found.pruner_name == "none" and found.pruner_reason.startswith("Halving:2 is left out")
    assert found.sampler_name == "RandomSampler" and found.sampler_reason == "You chose it."


@pytest.mark.parametrize(
    "space, options, expected",
    [
        (wide(), {}, (45, 5, 1)),
        (wide(), {"trials": 10}, (10, 0, 0)),
        (wide(), {"trials": 39}, (39, 0, 0)),
        (wide(), {"trials": 40}, (36, 4, 1)),
        (wide(), {"trials": 100}, (90, 5, 2)),
        (wide(), {"trials": 100, "repeats": 0}, (100, 0, 0)),
        (wide(), {"trials": 100, "repeats": 3}, (100, 5, 3)),
        (wide(), {"time": 60}, (None, 0, 0)),
        (small(), {}, (8, 5, 1)),
        (small(), {"trials": 8}, (8, 0, 0)),
        (small(), {"trials": 9}, (8, 0, 0)),
    ],
)
def test_finalists_are_part_of_the_trials_unless_their_number_is_given(space, options, expected):
    asked = SweepOptions(**options)
    found = choose(space, asked, plan_budget(asked, None, epochs=5))
    assert (found.trials, found.finalists, found.repeats) == expected and found.most == found.trials
    assert choose(space, asked, plan_budget(asked, None, epochs=5), objectives=2).finalists == 0
    assert choose(space, asked, plan_budget(asked, None, epochs=5), seeded=False).finalists == 0


# ---- the budget


def test_a_share_of_one_training_is_spent_on_shorter_trials():
    budget = plan_budget(SweepOptions(budget="20%"), 36_000, epochs=500)
    assert budget.limit == budget.seconds == 7200 and budget.epochs == 64 and budget.trials == 10
    assert budget.trainings == pytest.approx(100 / 64)
    assert "of 64 epochs, not 500," in budget.text


@pytest.mark.parametrize("jobs", [1, 4])
@pytest.mark.parametrize("share", [0.1, 0.5, 2, 10, 100])
@pytest.mark.parametrize("epochs", [40, 300])
def test_the_trials_of_a_plan_take_the_time_that_it_says(share, epochs, jobs):
    options = SweepOptions(budget=share, jobs=jobs)
    budget = plan_budget(options, 1000.0, epochs=epochs)
    name, _ = choose_pruner(budget.epochs, budget.trainings)
    kind, _, number = name.partition(":")
    cost = (
        1000 * budget.epochs / epochs * PRUNERS[kind].share(float(number) if number else None, budget.epochs)
    )
    assert 1 <= budget.epochs <= epochs
    assert budget.trials * cost / jobs <= budget.limit * 1.0001 < (budget.trials + 1) * cost / jobs * 1.001
    assert budget.trials >= 10 or budget.epochs == 1
    if budget.trainings > 40:
        assert budget.epochs == epochs  # there is room for whole trainings


def test_other_limits():
    assert plan_budget(SweepOptions(), 8.0, epochs=20).seconds == pytest.approx(50 * 8 * 0.4)
    assert plan_budget(SweepOptions(trials=10, time="1h"), 8.0, epochs=3).trials == 10
    assert plan_budget(SweepOptions(time="1m", budget="10x"), 10.0, epochs=20).limit == 60
    unknown = plan_budget(SweepOptions(time="1m"), None, epochs=1)
    assert (unknown.trials, unknown.seconds, unknown.limit) == (None, None, 60)
    assert "more than" in plan_budget(SweepOptions(time="1m"), 600.0, epochs=1).text


@pytest.mark.parametrize(
    "options, training, said",
    [({"budget": "10%"}, 60, "at least --budget 80%"), ({"budget": "20%"}, None, "use --time or --trials")],
)
def test_a_budget_that_cannot_be_planned_is_refused(options, training, said):
    with pytest.raises(OptionError, match=said):
        plan_budget(SweepOptions(**options), training, epochs=5)
