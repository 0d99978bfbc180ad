"""Ledger time is exact: sums, device factors, the contract, and stored records, even those with floats of seconds."""

from datetime import timedelta
from fractions import Fraction

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from services.kit import codec
from services.kit.clock import SystemClock
from services.kit.errors import InvalidRequest
from services.kit.memory import MemoryRecords
from services.kit.records import Table, Versioned
from services.trainer.domain import MAX_BUDGET, Model, Trial, training_cost
from services.trainer.ledger import MICROSECOND, ZERO, Reason, scaled
from services.trainer.planner.steps import StartTrial
from services.trainer.recipe import Recipe
from services.trainer.wire import model_from, model_message
from services.trainer.work import Work
from services.trainer.worker.attempt import Attempt
from sightline.v1 import model_pb2, model_service_pb2
from tests.unit.trainer.support import START, TTL, model, snapshot, training

RECIPE = Recipe(name="r", rung=0, backbones=("mobilenet_v2",))
T0 = "models/m/trials/t000"
SPANS = st.timedeltas(ZERO, MAX_BUDGET)
FACTORS = st.floats(1e-3, 1e3)
# As records were written before ledger time was exact.
OLD_WORK = (
    '{"create_time":"2026-01-01T00:00:00Z","allowance_seconds":12.345678,"state":"RUNNING",'
    '"lease":{"holder":"v","epoch":2,"expires":"2026-01-01T00:00:15Z"},"attempt":2,"barren_attempts":1,"segments":['
    '{"attempt":1,"number":0,"seconds":0.1,"charged":true,"reason":"checkpoint","end_time":"2026-01-01T00:00:00Z"},'
    '{"attempt":1,"number":1,"seconds":0.2,"charged":true,"reason":"checkpoint","end_time":"2026-01-01T00:00:00Z"},'
    '{"attempt":1,"number":2,"seconds":1,"charged":false,"reason":"released","end_time":"2026-01-01T00:00:00Z"}],'
    '"pending_seconds":0.7,"furthest_seconds":1.3000000000000003,"checkpoint_key":"d/","progress":0.2,"phase":"fit",'
    '"start_time":"2026-01-01T00:00:00Z","end_time":null,"ends":{"released":1},"given_up":false,'
    '"counted":{"started":true,"ends":{"released":1},"charged_seconds":0.3,"uncharged_seconds":1.0,"claim":"c"}}'
)
OLD_TRIAL = (
    '{"name":"models/m/trials/t001","model_uid":"u","number":1,"training":{"dataset":"datasets/d","digest":"sha256:ab",'
    '"manifest_key":"k","image_count":3},"recipe":{"name":"r","rung":0,"backbones":["mobilenet_v2"]},'
    '"holdout_fraction":0.2,"seed":0,"expected_seconds":3.5,"forerunner":"models/m/trials/t000",'
    f'"work":{OLD_WORK},"result":null,"update_time":"2026-01-01T00:00:00Z"}}'
)
OLD_MODEL = (
    '{"name":"models/m","uid":"u","training_dataset":"datasets/d","budget_seconds":600.1,'
    '"model_kind":"GENERIC_CLASSIFIER","create_time":"2026-01-01T00:00:00Z","update_time":"2026-01-01T00:00:00Z",'
    '"state":"NOT_STARTED","training_cost_seconds":0.3}'
)


def trial(number: int, allowance: timedelta) -> Trial:
    return Trial(
        name=f"models/m/trials/t{number:03d}",
        model_uid="uid1",
        number=number,
        training=snapshot(),
        recipe=RECIPE,
        holdout_fraction=0.2,
        seed=0,
        work=Work(create_time=START, allowance=allowance).taken("t", "w", START, TTL),
        update_time=START,
    )


def request(budget: Duration) -> model_service_pb2.CreateModelRequest:
    parameters = model_pb2.TrainingParameters(
        training_dataset="datasets/birds",
        time_budget=budget,
        model_kind=model_pb2.TrainingParameters.GENERIC_CLASSIFIER,
    )
    return model_service_pb2.CreateModelRequest(model_id="m", model=model_pb2.Model(training_parameters=parameters))


def test_a_trial_stored_with_floats_of_seconds_is_read_exactly() -> None:
    stored = codec.decode(OLD_TRIAL.encode(), Trial)
    work = stored.work
    assert (stored.parent_trial, work.attempts_without_commit) == (T0, 1)
    assert work.allowance == timedelta(microseconds=12_345_678)
    assert [line.duration // MICROSECOND for line in work.segments] == [100_000, 200_000, 1_000_000]
    assert (work.pending, work.furthest) == (timedelta(milliseconds=700), timedelta(milliseconds=1300))
    assert work.charged == work.tally.charged == work.counted.charged == timedelta(milliseconds=300)
    assert work.counted.uncharged == timedelta(seconds=1)
    assert codec.decode(codec.encode(stored), Trial) == stored


def test_a_model_stored_with_floats_of_seconds_is_read_exactly() -> None:
    stored = codec.decode(OLD_MODEL.encode(), Model)
    assert (stored.budget, stored.training_cost) == (timedelta(milliseconds=600_100), timedelta(milliseconds=300))
    assert codec.decode(codec.encode(stored), Model) == stored


@given(span=SPANS)
def test_a_float_of_seconds_is_the_same_span(span: timedelta) -> None:
    assert timedelta(seconds=span.total_seconds()) == span
    assert codec.decode(codec.encode(span.total_seconds()), timedelta) == span


@given(spans=st.lists(SPANS, max_size=40), budget=st.timedeltas(MICROSECOND, MAX_BUDGET))
def test_the_charged_entries_of_the_contract_s_ledger_add_up_to_the_training_cost(
    spans: list[timedelta], budget: timedelta
) -> None:
    trials: list[Trial] = []
    for number, used in enumerate(spans):
        planned = trial(number, budget - training_cost(trials, None))
        saved = planned.work.committed(START, TTL, used=used / 3, checkpoint_key="c/")
        trials.append(replace(planned, work=saved.succeeded(START, used)))
    ended = replace(training(), budget=budget, training_cost=training_cost(trials, None))
    message = model_message(Versioned(ended, 1), trials, None, full=True)
    charged = [entry.duration.ToTimedelta() for entry in message.ledger if entry.charged]
    assert sum(charged, ZERO) == message.training_cost.ToTimedelta() == min(sum(spans, ZERO), budget)
    assert message.training_parameters.time_budget.ToTimedelta() == budget


@given(span=SPANS, factor=FACTORS)
def test_a_device_that_uses_up_its_allowance_is_not_charged_more_than_the_allowance(
    span: timedelta, factor: float
) -> None:
    exact = Fraction(factor)
    on_device = scaled(span, 1 / exact)
    assert span - (factor + 1) * MICROSECOND <= scaled(on_device, exact) <= span
    assert scaled(span, Fraction(1)) == span


@given(spans=st.lists(SPANS, max_size=40), factor=FACTORS)
def test_a_factor_never_charges_more_than_its_exact_product(spans: list[timedelta], factor: float) -> None:
    charged = sum((scaled(span, Fraction(factor)) for span in spans), ZERO) // MICROSECOND
    exact = Fraction(factor) * (sum(spans, ZERO) // MICROSECOND)
    assert exact - len(spans) <= charged <= exact


@pytest.mark.parametrize("factor", [1 / 3, 0.7, 1.0, 2.5, 7.0])
async def test_an_attempt_on_any_device_charges_its_whole_allowance_at_most(factor: float) -> None:
    table = Table(MemoryRecords(), Trial)
    allowance = timedelta(microseconds=1_000_003)
    await table.create(T0, replace(trial(0, allowance), work=Work(create_time=START, allowance=allowance)))
    attempt = await Attempt[Trial].begin(table, T0, "w", SystemClock(), TTL, factor)
    assert attempt is not None
    for part in (1, 2, 3):
        await attempt.commit(part * attempt_share(attempt.record.work, factor), f"{part}/")
    await attempt.succeed(scaled(allowance, 1 / Fraction(factor)))
    work = attempt.record.work
    assert work.segments[-1].reason is Reason.FINISHED
    assert allowance - (factor + 1) * MICROSECOND <= work.charged <= allowance


def attempt_share(work: Work, factor: float) -> timedelta:
    """A quarter of the allowance, as time on the device."""
    return scaled(work.allowance / 4, 1 / Fraction(factor))


@given(left=SPANS, reserve=st.floats(0, 1e6))
def test_what_a_trial_is_allowed_is_never_more_than_what_is_left(left: timedelta, reserve: float) -> None:
    step = StartTrial(RECIPE, left.total_seconds() - reserve, 1.0)
    assert step.allowance <= left
    assert StartTrial(RECIPE, left.total_seconds(), 1.0).allowance == left


@given(span=st.timedeltas(MICROSECOND, MAX_BUDGET))
def test_a_budget_in_whole_microseconds_comes_back_as_it_was_given(span: timedelta) -> None:
    budget = Duration()
    budget.FromTimedelta(span)
    made = model_from(request(budget), SystemClock())
    assert made.budget == span
    assert model_message(Versioned(made, 1), [], None).training_parameters.time_budget == budget


def test_a_budget_is_rounded_down_to_whole_microseconds() -> None:
    assert model_from(request(Duration(seconds=2, nanos=999_999_999)), SystemClock()).budget == timedelta(
        seconds=2, microseconds=999_999
    )


@pytest.mark.parametrize(
    "budget",
    [
        Duration(),
        Duration(nanos=999),
        Duration(seconds=-1),
        Duration(nanos=-1),
        Duration(seconds=288 * 3600, nanos=1_000),
        Duration(seconds=2**63 - 1),
        Duration(seconds=-(2**63)),
    ],
)
def test_a_budget_out_of_range_is_refused_by_name(budget: Duration) -> None:
    with pytest.raises(InvalidRequest, match=r"time_budget.* s is not above 0 and at most 288 hours"):
        model_from(request(budget), SystemClock())


@pytest.mark.parametrize("budget", [Duration(seconds=9, nanos=-1), Duration(seconds=9, nanos=1_000_000_000)])
def test_a_budget_that_is_no_valid_duration_is_refused(budget: Duration) -> None:
    with pytest.raises(InvalidRequest, match=r"time_budget\.nanos: .* is not within"):
        model_from(request(budget), SystemClock())


def test_hours_beyond_the_limit_are_shown_in_whole_seconds() -> None:
    with pytest.raises(InvalidRequest, match=r"time_budget: 1040400 s is not above 0 and at most 288 hours"):
        model_from(request(Duration(seconds=289 * 3600)), SystemClock())


def test_a_model_s_share_of_its_budget_is_exact() -> None:
    done = trial(0, timedelta(seconds=0.3)).work.succeeded(START, timedelta(seconds=0.1))
    message = model_message(
        Versioned(model(budget=timedelta(seconds=0.3)), 1), [replace(trial(0, ZERO), work=done)], None
    )
    assert message.progress.budget_used.ToTimedelta() == timedelta(milliseconds=100)
    assert message.progress.fraction == 1 / 3
