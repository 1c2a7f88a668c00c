"""RunPod's dialects: REST v2, REST v1 and GraphQL, against the fact that each sentence of their documentation is."""

import re

import pytest

from providers.emulator.clock import rfc3339

from .conftest import PUBLIC_KEY

POD_FIELDS = {
    *("id", "name", "status", "actions", "image", "args", "disk", "mounts", "gpu", "cloud", "dataCenterId", "cudaVersion", "cost"),
    *("locked", "globalNetworking", "env", "ports", "registry", "template", "createdAt", "startedAt", "runtime", "ssh"),
}
RTX_4090 = "NVIDIA GeForce RTX 4090"
CAPACITY = "There are no longer any instances available with the requested specifications. Please refresh and try again."


def show(it, pod):
    return it.get("runpod", f"/v2/pods/{pod}").document()


def test_a_pod_has_the_fields_of_the_recording(virtual):
    reply = virtual.pod_reply()
    pod = reply.document()
    assert reply.status == 201 and set(pod) == POD_FIELDS
    assert pod["status"] == "PROVISIONING" and pod["runtime"] is None and pod["ssh"]["direct"] is None and pod["cost"] == 0.69
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", pod["createdAt"])


def test_running_is_not_ready(virtual):
    """RUNNING is shown while the image is still pulled: runtime and ssh.direct come later."""
    pod = virtual.pod()
    seen = []
    for _ in range(30):
        document = show(virtual, pod)
        step = (document["status"], document["runtime"] is not None, document["ssh"]["direct"] is not None)
        if not seen or seen[-1] != step:
            seen.append(step)
        virtual.wait(0.1)
    assert seen == [("PROVISIONING", False, False), ("STARTING", False, False), ("RUNNING", False, False), ("RUNNING", True, True)]
    document = show(virtual, pod)
    port = next(one for one in document["runtime"]["ports"] if one["private"] == 22)
    assert port == {"ip": "127.0.0.1", "private": 22, "public": document["ssh"]["direct"]["port"], "type": "tcp"}
    assert document["ssh"]["direct"]["username"] == "root" and document["ssh"]["proxy"]["username"].startswith(f"{pod}-")


def test_without_22_tcp_there_is_no_direct_ssh(virtual):
    pod = virtual.pod(ports=["8888/http"])
    virtual.wait(5)
    document = show(virtual, pod)
    assert document["ssh"]["direct"] is None and [one["type"] for one in document["runtime"]["ports"]] == ["http"]


def test_delete_is_204_and_then_404_and_the_list_forgets(virtual):
    pod = virtual.pod()
    reply = virtual.ask("runpod", "DELETE", f"/v2/pods/{pod}")
    assert reply.status == 204 and reply.body == b""
    gone = virtual.get("runpod", f"/v2/pods/{pod}")
    assert gone.status == 404 and gone.headers["content-type"] == "application/problem+json"
    assert set(gone.document()) == {"title", "status", "detail"}
    assert virtual.ask("runpod", "DELETE", f"/v2/pods/{pod}").status == 404 and virtual.listed("runpod") == []


@pytest.mark.parametrize(("key", "detail"), [("", "missing bearer token"), ("nonsense", "invalid api key")])
def test_wrong_keys(virtual, key, detail):
    reply = virtual.get("runpod", "/v2/pods", key=key)
    assert reply.status == 401 and reply.document() == {"title": "Unauthorized", "status": 401, "detail": detail}
    assert virtual.get("runpod", "/v1/pods", key=key).status == 401
    assert virtual.graphql("query { myself { id } }", key=key).status == 401


def test_the_key_in_the_query_is_for_graphql_alone(virtual):
    assert virtual.ask("runpod", "POST", f"/graphql?api_key={virtual.key}", {"query": "query { myself { id } }"}, key="").status == 200
    assert virtual.get("runpod", f"/v2/pods?api_key={virtual.key}", key="").status == 401


@pytest.mark.parametrize(
    "change",
    [
        {"interruptible": True},
        {"terminateAfter": "2026-01-01T00:00:00Z"},
        {"gpu": {"id": RTX_4090, "bid": 1}},
        {"gpu": {"id": RTX_4090, "allowedCudaVersions": ["12.8"], "minCudaVersion": "12.8"}},
        {"name": ""},
        {"image": ""},
        {"cloud": "ALL"},
        {"cpu": {"id": "cpu3c"}},
        {"ports": ["22"]},
        {"disk": "50"},
        {"mounts": {"persistent": {"size": 5, "path": "/workspace"}}},
        {"mounts": {"persistent": {"size": 20, "path": "/w"}, "network": []}},
    ],
)
def test_bodies_that_do_not_fit_are_422(virtual, change):
    reply = virtual.pod_reply(**change)
    document = reply.document()
    assert (
        reply.status == 422 and document["detail"] == "Request validation failed." and document["errors"] and virtual.listed("runpod") == []
    )


def test_the_newer_fields_are_accepted(virtual):
    reply = virtual.pod_reply(gpu={"id": RTX_4090, "minRamPerGpu": 8, "minVcpuCountPerGpu": 2}, entrypoint=["bash"], cmd=["-c", "true"])
    assert reply.status == 201
    assert virtual.world.instances["runpod"][reply.document()["id"]].spec.start == ("bash", "-c", "true")


@pytest.mark.parametrize(
    "change",
    [
        {"gpu": {"id": "NVIDIA GeForce RTX 9090"}},
        {"dataCenterIds": ["EU-XX-9"]},
        {"gpu": {"id": RTX_4090, "count": 9}},
        {"gpu": {"id": RTX_4090, "minCudaVersion": "13.1"}},
    ],
)
def test_no_capacity_and_an_unknown_gpu_have_the_same_words(virtual, change):
    reply = virtual.pod_reply(**change)
    assert reply.status == 400 and reply.document() == {"title": "Bad Request", "status": 400, "detail": CAPACITY}


def test_balance_for_an_hour_is_needed(make):
    it = make(deposit_usd="0.5")
    reply = it.pod_reply()
    assert reply.status == 402 and reply.document()["title"] == "Payment Required"


def test_actions_are_allowed_by_status(virtual):
    pod = virtual.pod()
    virtual.wait(5)
    assert show(virtual, pod)["actions"] == ["stop", "restart", "terminate"]
    first_port = show(virtual, pod)["ssh"]["direct"]["port"]
    assert isinstance(first_port, int)
    assert virtual.ask("runpod", "POST", f"/v2/pods/{pod}/action", {"action": "start"}).status == 409
    assert virtual.ask("runpod", "POST", f"/v2/pods/{pod}/action", {"action": "fly"}).status == 422
    stopped = virtual.ask("runpod", "POST", f"/v2/pods/{pod}/action", {"action": "stop"}).document()
    assert stopped["status"] == "EXITED" and stopped["cost"] == 0.69 and stopped["ssh"]["direct"] is None
    assert virtual.ask("runpod", "POST", f"/v2/pods/{pod}/action", {"action": "start"}).document()["status"] == "PROVISIONING"
    assert virtual.ask("runpod", "POST", f"/v2/pods/{pod}/action", {"action": "terminate"}).status == 204


def test_a_locked_pod_is_not_stopped(virtual):
    pod = virtual.pod(locked=True)
    virtual.wait(5)
    assert virtual.ask("runpod", "POST", f"/v2/pods/{pod}/action", {"action": "stop"}).status == 409


def test_rename(virtual):
    pod = virtual.pod()
    assert virtual.ask("runpod", "PATCH", f"/v2/pods/{pod}", {"name": "other"}).document()["name"] == "other"
    assert virtual.status(pod)["tag"] == "other"


def test_method_not_allowed_names_what_is(virtual):
    reply = virtual.ask("runpod", "PUT", "/v2/pods", {})
    assert reply.status == 405 and reply.headers["allow"] == "GET, POST"


def test_catalogue(virtual):
    (gpu,) = [one for one in virtual.get("runpod", "/v2/catalog/gpus").document()["gpus"] if one["id"] == RTX_4090]
    assert gpu["price"] == {"secure": 0.69, "community": 0.34, "serverless": 1.1} and "availability" not in gpu
    full = virtual.get("runpod", "/v2/catalog/gpus?include=AVAILABILITY&product=POD&count=1").document()["gpus"]
    (gpu,) = [one for one in full if one["id"] == RTX_4090]
    assert gpu["availability"] in ("LOW", "MEDIUM", "HIGH") and gpu["dataCenters"]
    assert virtual.get("runpod", "/v2/catalog/gpus?include=AVAILABILITY").status == 400
    assert virtual.get("runpod", "/v2/catalog/gpus?product=POD").status == 400
    assert virtual.get("runpod", "/v2/catalog/gpus?include=AVAILABILITY&product=POD&cloud=BOTH").status == 422
    assert virtual.get("runpod", "/v2/catalog/gpus/NVIDIA%20GeForce%20RTX%204090").document()["id"] == RTX_4090
    assert virtual.get("runpod", "/v2/catalog/datacenters?include=GPU_AVAILABILITY&regions=EUROPE").document()["dataCenters"]


def test_an_unknown_query_parameter_is_ignored(virtual):
    virtual.pod()
    assert len(virtual.get("runpod", "/v2/pods?desiredStatus=EXITED").document()["pods"]) == 1


def test_ssh_keys_are_replaced_as_a_whole(virtual):
    assert virtual.ask("runpod", "PUT", "/v2/account/ssh-keys", {"keys": [PUBLIC_KEY]}).status == 200
    assert virtual.get("runpod", "/v2/account/ssh-keys").document() == {"keys": [PUBLIC_KEY]}
    assert virtual.ask("runpod", "PUT", "/v2/account/ssh-keys", {"keys": [PUBLIC_KEY, "no key"]}).status == 422
    pod = virtual.pod(env={}, startSsh=True)
    assert virtual.world.instances["runpod"][pod].spec.authorized_keys == (PUBLIC_KEY,)
    own = virtual.pod(env={"PUBLIC_KEY": "ssh-ed25519 AAAA own"}, startSsh=True)
    assert virtual.world.instances["runpod"][own].spec.authorized_keys == ("ssh-ed25519 AAAA own",)


def test_rate_limits_are_advertised_and_held(make):
    it = make(rate_limits=True)
    first = it.get("runpod", "/v2/pods")
    assert re.fullmatch(r'"minute";r=59;t=\d+', first.headers["ratelimit"]) and "q=60;w=60" in first.headers["ratelimit-policy"]
    for _ in range(59):
        it.get("runpod", "/v2/pods")
    refused = it.get("runpod", "/v2/pods")
    assert refused.status == 429 and int(refused.headers["retry-after"]) <= 60 and "minute window" in refused.document()["detail"]
    it.wait(60)
    assert it.get("runpod", "/v2/pods").status == 200


def test_the_pods_own_key_ends_it_and_nothing_else(virtual):
    pod, other = virtual.pod(), virtual.pod()
    key = virtual.world.instances["runpod"][pod].spec.env["RUNPOD_API_KEY"]
    assert virtual.get("runpod", "/v2/pods", key=key).status == 403
    assert virtual.ask("runpod", "DELETE", f"/v2/pods/{other}", key=key).status == 403
    refused = virtual.graphql(f'mutation {{ podTerminate(input: {{podId: "{other}"}}) }}', key=key)
    assert "errors" in refused.document()
    assert virtual.graphql(f'mutation {{ podTerminate(input: {{podId: "{pod}"}}) }}', key=key).document() == {
        "data": {"podTerminate": None}
    }
    assert virtual.listed("runpod") == [other]


# GraphQL

DEPLOY = """mutation {{ podFindAndDeployOnDemand(input: {{
  name: "lumina-t", imageName: "runpod/pytorch:x", gpuTypeId: "{gpu}", cloudType: {cloud}, gpuCount: {count}, containerDiskInGb: 20,
  volumeInGb: 0, ports: "22/tcp,8888/http", env: [{{key: "PUBLIC_KEY", value: "{key}"}}], terminateAfter: "{end}" }}) {{
  id name env machineId costPerHr desiredStatus machine {{ podHostId gpuDisplayName }} }} }}"""


def deploy(it, *, gpu=RTX_4090, cloud="SECURE", count=1, seconds=600):
    end = rfc3339(it.clock.now() + seconds * 1000)
    return it.graphql(DEPLOY.format(gpu=gpu, cloud=cloud, count=count, key=PUBLIC_KEY, end=end)).document()


def test_graphql_deploys_a_pod_that_rest_sees(virtual):
    pod = deploy(virtual)["data"]["podFindAndDeployOnDemand"]
    assert pod["env"] == [f"PUBLIC_KEY={PUBLIC_KEY}"] and pod["costPerHr"] == 0.69 and pod["machine"]["gpuDisplayName"] == "RTX 4090"
    assert show(virtual, pod["id"])["name"] == "lumina-t"
    virtual.wait(5)
    query = "query { myself { pods { id desiredStatus runtime { ports { ip isIpPublic privatePort publicPort type } } } } }"
    (row,) = virtual.graphql(query).document()["data"]["myself"]["pods"]
    assert row["desiredStatus"] == "RUNNING" and row["runtime"]["ports"][0]["isIpPublic"] is True


def test_terminate_after_ends_the_pod_by_itself(virtual):
    pod = deploy(virtual, seconds=600)["data"]["podFindAndDeployOnDemand"]["id"]
    virtual.wait(599)
    assert virtual.listed("runpod") == [pod]
    virtual.wait(1)
    assert virtual.listed("runpod") == [] and virtual.status(pod)["state"] == "ended"


def test_graphql_errors_come_with_200_and_bad_queries_with_400(virtual):
    failed = deploy(virtual, count=9)
    assert failed["errors"][0]["message"] == CAPACITY and failed["data"] == {"podFindAndDeployOnDemand": None}
    bad = virtual.graphql("query { nothing }")
    assert bad.status == 400 and bad.document()["errors"][0]["extensions"]["code"] == "GRAPHQL_VALIDATION_FAILED"
    gone = virtual.graphql('mutation { podTerminate(input: {podId: "nope"}) }').document()
    assert "not found" in gone["errors"][0]["message"]


def test_prices_are_public_and_per_gpu(virtual):
    query = f'query {{ gpuTypes(input: {{id: "{RTX_4090}"}}) {{ id securePrice communityPrice secureSpotPrice lowestPrice(input: {{gpuCount: 2, secureCloud: true}}) {{ minimumBidPrice uninterruptablePrice stockStatus availableGpuCounts }} }} }}'  # noqa: E501
    (gpu,) = virtual.graphql(query, key="").document()["data"]["gpuTypes"]
    assert gpu["securePrice"] == gpu["lowestPrice"]["uninterruptablePrice"] == 0.69
    assert gpu["lowestPrice"]["minimumBidPrice"] == gpu["secureSpotPrice"] and gpu["lowestPrice"]["stockStatus"] in (
        "Low",
        "Medium",
        "High",
    )


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_a_pods_rate_is_price_times_count(virtual, count):
    assert virtual.pod_reply(gpu={"id": RTX_4090, "count": count}).document()["cost"] == pytest.approx(0.69 * count)


def test_spot_is_bid_per_gpu(virtual):
    query = f'mutation {{ podRentInterruptable(input: {{name: "s", imageName: "x", gpuTypeId: "{RTX_4090}", cloudType: SECURE, gpuCount: 2, bidPerGpu: BID}}) {{ id costPerHr podType }} }}'  # noqa: E501
    pod = virtual.graphql(query.replace("BID", "0.40")).document()["data"]["podRentInterruptable"]
    assert pod["costPerHr"] == pytest.approx(0.80) and pod["podType"] == "INTERRUPTABLE"
    assert virtual.graphql(query.replace("BID", "0.01")).document()["errors"][0]["message"] == CAPACITY


def test_a_preempted_pod_exits_and_its_volume_bills(virtual):
    pod = virtual.pod(mounts={"persistent": {"size": 100, "path": "/workspace"}})
    virtual.wait(5)
    virtual.arm("preempted", now=True, at_seconds=0)
    virtual.wait(0)
    assert show(virtual, pod)["status"] == "EXITED"
    before = virtual.status(pod)["usd_billed"]
    virtual.wait(3600)
    assert virtual.status(pod)["usd_billed"] > before
    last = virtual.graphql(f'query {{ pod(input: {{podId: "{pod}"}}) {{ lastStatusChange desiredStatus }} }}').document()["data"]["pod"]
    assert last["lastStatusChange"].startswith("Exited by Runpod: ") and last["desiredStatus"] == "EXITED"


def test_a_dead_host_leaves_running_without_a_runtime(virtual):
    pod = virtual.pod()
    virtual.wait(5)
    virtual.arm("host_death", now=True, at_seconds=0)
    virtual.wait(0)
    document = show(virtual, pod)
    assert document["status"] == "RUNNING" and document["runtime"] is None and document["ssh"]["direct"] is None


def test_the_box_gets_what_a_pod_gets(virtual):
    pod = virtual.pod(args="bash -c 'echo hi; sleep infinity'")
    spec = virtual.world.instances["runpod"][pod].spec
    assert spec.env["RUNPOD_POD_ID"] == pod and spec.env["PUBLIC_KEY"] == PUBLIC_KEY and spec.env["RUNPOD_GPU_COUNT"] == "1"
    assert spec.start == ("bash", "-c", "echo hi; sleep infinity") and spec.start_is_entrypoint and spec.login_sees_env
    custom = virtual.pod(image="someone/image")
    assert not virtual.world.instances["runpod"][custom].spec.login_sees_env


# REST v1


def test_v1_has_flat_pods_and_go_times(virtual):
    body = {"name": "v1", "imageName": "x", "gpuTypeIds": ["NVIDIA GeForce RTX 9090", RTX_4090], "cloudType": "SECURE", "env": {"A": "b"}}
    reply = virtual.ask("runpod", "POST", "/v1/pods", body)
    pod = reply.document()
    assert reply.status == 201 and pod["desiredStatus"] == "RUNNING" and pod["ports"] == ["8888/http", "22/tcp"] and pod["volumeInGb"] == 20
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} \+0000 UTC", pod["createdAt"])
    virtual.wait(5)
    (row,) = virtual.get("runpod", "/v1/pods?name=v1").document()
    assert row["publicIp"] == "127.0.0.1" and isinstance(row["portMappings"]["22"], int)
    assert virtual.get("runpod", "/v1/billing/pods?grouping=podId").document()[0]["podId"] == pod["id"]
    assert virtual.ask("runpod", "POST", f"/v1/pods/{pod['id']}/stop").document()["desiredStatus"] == "EXITED"
    assert virtual.ask("runpod", "DELETE", f"/v1/pods/{pod['id']}").status == 204
    assert virtual.ask("runpod", "DELETE", f"/v1/pods/{pod['id']}").document() == {"message": "Invalid Pod ID"}
    assert virtual.ask("runpod", "POST", "/v1/pods", {**body, "gpuTypeIds": ["x"]}).document() == {"error": CAPACITY}
