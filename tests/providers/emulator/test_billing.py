"""The invoice, worked out by hand for each provider's rules."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.emulator.billing import Meter, TimeLine, TrafficLine, monthly
from providers.emulator.clock import HOUR, SECOND

START = 1_790_000_000_000


def test_a_second_that_has_begun_is_billed():
    """$3.60 an hour is a tenth of a cent a second: 10.2 seconds are billed as 11."""
    line = TimeLine("gpu", Decimal("3.60"), START, step_seconds=1)
    assert line.amount(START) == 0
    assert line.amount(START + 10_000) == Decimal("0.010000")
    assert line.amount(START + 10_200) == Decimal("0.011000")


def test_a_minute_that_has_begun_is_billed():
    """Lambda's A10 at 129 cents an hour costs 2.15 cents a minute: 60 seconds are one of them, 61 are two."""
    line = TimeLine("instance", Decimal("1.29"), START, step_seconds=60)
    assert [line.amount(START + s * SECOND) for s in (1, 60, 61, 3600)] == [
        Decimal("0.021500"),
        Decimal("0.021500"),
        Decimal("0.043000"),
        Decimal("1.290000"),
    ]


def test_a_month_of_storage_is_720_hours():
    """50 GB at $0.10 a GB and month are $5.00 in 720 hours."""
    assert monthly(Decimal(50), Decimal("0.10")) * 720 == Decimal("5.00")


def test_traffic_is_billed_by_the_byte():
    """2.5 GB at $0.02 are 5 cents; a gigabyte has 10^9 bytes."""
    assert TrafficLine("bwd", Decimal("0.02"), 2_500_000_000).amount(START) == Decimal("0.050000")


@given(st.lists(st.tuples(st.decimals("0.001", "50", places=4), st.integers(0, 100_000)), max_size=8), st.integers(0, 200_000))
def test_a_bill_never_falls_and_is_the_sum_of_its_lines(rates, more):
    meter, now = Meter(step_seconds=1), START
    for rate, pause in rates:
        meter.start("gpu", rate, now)
        now += pause
    at_end = meter.total(now)
    assert at_end == sum((line.amount(now) for line in meter.times), Decimal(0))
    assert meter.total(now + more) >= at_end
    meter.stop_all(now)
    assert meter.total(now + more) == at_end


def test_vastai_running_then_stopped_then_destroyed(make):
    """An hour of a $0.40 offer with 50 GB at $0.15 and 3 GB in, 1 GB out, then two hours stopped.

    GPU: 3600 s at 0.40 = 0.400000. It is billed while running, so neither the boot nor the two hours count.
    Disk: 50 x 0.15 / 720 = 0.0104166 an hour, from the create to the destroy's end: 1.2 s of boot + 3600 s + 7200 s + 0.3 s
    = 10802 started seconds = 10802 / 3600 x 0.01041666 = 0.031256.
    Traffic: 3 x 0.01 + 1 x 0.02 = 0.050000, though the instance was stopped in between.
    """
    it = make()
    offer = it.offers()[0]
    ask = it.emulator.vastai.market.asks[offer["id"]]
    ask.dph_base, ask.storage_cost = Decimal("0.40"), Decimal("0.15")
    ask.inet_down_cost, ask.inet_up_cost = Decimal("0.01"), Decimal("0.02")
    number = it.rent(offer, disk=50)
    it.wait(1.2)
    assert it.status(number)["state"] == "running"
    machine = it.world.instances["vastai"][number].machine
    machine.received, machine.sent = 3_000_000_000, 1_000_000_000
    it.wait(3600)
    it.ask("vastai", "PUT", f"/api/v0/instances/{number}/", {"state": "stopped"})
    it.wait(7200)
    it.terminate("vastai", number)
    it.wait(60)
    assert it.status(number) == {
        "provider": "vastai",
        "id": number,
        "state": "ended",
        "tag": "lumina-t",
        "usd_billed": str(Decimal("0.400000") + Decimal("0.031256") + Decimal("0.050000")),
    }


def test_vastai_a_stopped_contract_that_never_ran_bills_its_disk(make):
    """A bid below the market's leaves a stopped contract: 100 GB at $0.20 for 36 hours are 100 x 0.20 / 720 x 36 = $1.00."""
    it = make()
    offer = it.offers()[0]
    it.emulator.vastai.market.asks[offer["id"]].storage_cost = Decimal("0.20")
    reply = it.rent_reply(offer, disk=100, price=0.001)
    number = str(reply.document()["new_contract"])
    assert reply.status == 400 and it.status(number)["state"] == "stopped"
    it.wait(36 * 3600)
    assert it.status(number)["usd_billed"] == "1.000000"


def test_vastai_offline_bills_nothing(make):
    it = make()
    number = it.rent()
    it.wait(10)
    it.arm("host_death", now=True, at_seconds=0)
    it.wait(0)
    before = it.status(number)["usd_billed"]
    it.wait(3600)
    assert it.status(number)["usd_billed"] == before
    row = it.get("vastai", f"/api/v0/instances/{number}/").document()["instances"]
    assert row["actual_status"] == "offline"


def test_vastai_charges_say_what_the_invoice_says(make):
    it = make()
    number = it.rent()
    it.wait(1000)
    it.world.instances["vastai"][number].machine.received = 123_456_789
    it.terminate("vastai", number)
    it.wait(10)
    now = it.clock.now() // 1000
    filters = f'{{"day":{{"gte":{now - 86400},"lte":{now + 86400}}}}}'
    (charge,) = it.get("vastai", f"/api/v0/charges/?select_filters={filters}&format=table&limit=100").document()["results"]
    assert charge["source"] == f"instance-{number}" and charge["metadata"] == {"label": "lumina-t"}
    assert {item["type"] for item in charge["items"]} <= {"gpu", "disk", "bwd", "bwu"}
    billed = Decimal(it.status(number)["usd_billed"])
    assert Decimal(str(charge["amount"])) == billed == sum(Decimal(str(item["amount"])) for item in charge["items"])


def test_runpod_running_then_stopped_then_deleted(make):
    """An RTX 4090 at $0.69 with 50 GB of disk and a volume of 100 GB: an hour running, ten hours stopped.

    Running, 3600 s from the create: GPU 0.690000; disk 50 x 0.10 / 720 = 0.006944; volume 100 x 0.10 / 720 = 0.013889.
    Stopped, 36000 s: the volume at the double rate, 100 x 0.20 / 720 x 10 = 0.277778; no GPU, and no container disk.
    """
    it = make()
    pod = it.pod(mounts={"persistent": {"size": 100, "path": "/workspace"}})
    it.wait(3600)
    assert it.status(pod)["usd_billed"] == str(Decimal("0.690000") + Decimal("0.006944") + Decimal("0.013889"))
    it.ask("runpod", "POST", f"/v2/pods/{pod}/action", {"action": "stop"})
    it.wait(36_000)
    assert it.ask("runpod", "DELETE", f"/v2/pods/{pod}").status == 204
    it.wait(500)
    assert it.status(pod)["usd_billed"] == str(Decimal("0.710833") + Decimal("0.277778"))


def test_runpod_two_gpus_cost_twice_one(make):
    it = make()
    pod = it.pod(gpu={"id": "NVIDIA GeForce RTX 4090", "count": 2}, disk=50)
    it.wait(3600)
    assert it.status(pod)["usd_billed"] == str(Decimal("1.380000") + Decimal("0.006944"))


@pytest.mark.parametrize("size", ["hour", "day", "week", "month", "year"])
def test_runpod_billing_records_add_up_to_the_invoice(make, size):
    """Hours and days cut a pod's life anywhere; the records of its buckets add up to its bill all the same, to the micro-dollar."""
    it = make()
    pod = it.pod()
    it.wait(5 * 3600 + 17)
    it.ask("runpod", "DELETE", f"/v2/pods/{pod}")
    it.wait(60)
    document = it.get("runpod", f"/v2/billing/pods?bucketSize={size}&podId={pod}").document()
    total = sum(Decimal(str(one["totalAmount"])) for one in document["records"])
    assert total == Decimal(it.status(pod)["usd_billed"]) == Decimal(str(document["metadata"]["totals"]["totalAmount"]))
    assert all(
        Decimal(str(one["gpuAmount"])) + Decimal(str(one["diskAmount"])) == Decimal(str(one["totalAmount"])) for one in document["records"]
    )
    if size == "hour":
        assert len(document["records"]) >= 5


def test_runpod_billing_lags_by_its_job(make):
    """The records come from a job: what was used since its last run is not in them yet."""
    from providers.emulator.switches import REAL

    it = make(delays=REAL)
    it.pod()
    it.wait(120)
    assert it.get("runpod", "/v2/billing/pods?bucketSize=hour").document()["records"] == []
    it.wait(200)
    assert it.get("runpod", "/v2/billing/pods?bucketSize=hour").document()["records"]


def test_lambda_bills_started_minutes_from_launch_to_terminate(make):
    """2 minutes and 5 seconds of an A10 at 129 cents are three minutes: 3 x 2.15 cents."""
    it = make()
    vm = it.launch()
    it.wait(125)
    it.terminate("lambda", vm)
    it.wait(600)
    assert it.status(vm)["usd_billed"] == "0.064500"


def test_lambda_bills_after_the_guest_powered_off(make):
    it = make()
    vm = it.launch()
    it.wait(10)
    it.emulator.lambda_.powered_off(it.world.instances["lambda"][vm])
    it.wait(HOUR // SECOND)
    assert Decimal(it.status(vm)["usd_billed"]) > Decimal("1.29")


def test_an_eight_gpu_machine_is_billed_as_a_whole(make):
    """Vast.ai's and Lambda's prices are per machine, RunPod's per GPU."""
    it = make()
    offer = next(one for one in it.offers(num_gpus={"eq": 8}, reliability2={"gte": 0}) if one["num_gpus"] == 8)
    number = it.rent(offer)
    it.wait(3601.2)
    gpu = it.world.instances["vastai"][number].meter.times[1]
    assert gpu.kind == "gpu" and float(gpu.usd_per_hour) == pytest.approx(offer["dph_base"])
    it.emulator.lambda_.capacity["gpu_8x_h100_sxm5"].add("us-east-1")
    vm = it.launch(instance_type_name="gpu_8x_h100_sxm5")
    it.wait(3600)
    assert it.status(vm)["usd_billed"] == "31.920000"


def test_the_invoice_is_the_sum_over_all_instances_and_leaves_the_deposit(make):
    it = make(deposit_usd="50")
    for provider in ("vastai", "runpod", "lambda"):
        it.create(provider)
    it.wait(1800)
    document = it.emulator.status()
    assert Decimal(document["invoice_usd"]) == sum(Decimal(one["usd_billed"]) for one in document["instances"])
    credit = it.get("vastai", "/api/v0/users/current/").document()["credit"]
    vastai = next(one for one in document["instances"] if one["provider"] == "vastai")
    assert Decimal(str(credit)) == 50 - Decimal(vastai["usd_billed"])
    balance = it.graphql("query { myself { clientBalance currentSpendPerHr } }").document()["data"]["myself"]
    runpod = next(one for one in document["instances"] if one["provider"] == "runpod")
    assert Decimal(str(balance["clientBalance"])) == 50 - Decimal(runpod["usd_billed"])
    assert balance["currentSpendPerHr"] == pytest.approx(0.69 + 50 * 0.10 / 720)
