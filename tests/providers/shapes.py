"""What requests and replies of each endpoint hold, by the clouds' API pages: fields, types and statuses, written down by themselves.

`T` is a text, `N` a number (never a truth value), `B` a truth value, `ANY` anything; a list of one shape is a list of such; a tuple is
a choice; `opt(...)` may be missing or null. `extra` fields of a reply are allowed, of a request they are not.
"""

T, N, B, ANY, NULL = "text", "number", "bool", "anything", "null"


class Opt:
    """A field that may be missing or null."""

    def __init__(self, shape):
        self.shape = shape


def opt(shape):
    return Opt(shape)


def misfit(value, shape, *, extra, where="body"):
    """Return where `value` is not of that shape, None when it is."""
    if isinstance(shape, Opt):
        return None if value is None else misfit(value, shape.shape, extra=extra, where=where)
    if isinstance(shape, tuple):
        return None if any(misfit(value, one, extra=extra) is None for one in shape) else where
    if isinstance(shape, list):
        if not isinstance(value, list):
            return where
        return next((m for i, v in enumerate(value) if (m := misfit(v, shape[0], extra=extra, where=f"{where}[{i}]"))), None)
    if isinstance(shape, dict):
        return _object_misfit(value, shape, extra=extra, where=where)
    fits = {
        T: isinstance(value, str),
        N: isinstance(value, int | float) and not isinstance(value, bool),
        B: isinstance(value, bool),
        ANY: True,
        NULL: value is None,
    }
    return None if fits[shape] else f"{where} is no {shape}: {value!r}"


def _object_misfit(value, shape, *, extra, where):
    if not isinstance(value, dict):
        return f"{where} is no object"
    if "*" in shape:
        return next((m for k, v in value.items() if (m := misfit(v, shape["*"], extra=extra, where=f"{where}.{k}"))), None)
    if not extra and (more := value.keys() - shape.keys()):
        return f"{where} holds {sorted(more)}"
    for name, inner in shape.items():
        if name not in value and not isinstance(inner, Opt):
            return f"{where}.{name} is missing"
        if name in value and (found := misfit(value[name], inner, extra=extra, where=f"{where}.{name}")):
            return found
    return None


_OP = {"*": ANY}
_VAST_INSTANCE = {
    **{"id": N, "label": opt(T), "machine_id": N, "actual_status": opt(T), "cur_state": opt(T), "next_state": opt(T)},
    **{"intended_status": opt(T), "status_msg": opt(T), "image_runtype": opt(T), "ssh_host": opt(T), "ssh_port": opt(N)},
    **{"public_ipaddr": opt(T), "ports": opt({"*": [{"HostIp": T, "HostPort": T}]}), "dph_total": N, "start_date": opt(N)},
    **{"end_date": opt(N), "gpu_name": T, "num_gpus": N, "gpu_ram": N, "is_bid": opt(B)},
}
_VAST_RENTAL = {
    **{"client_id": T, "image": T, "label": T, "disk": N, "runtype": T, "env": {"*": T}, "onstart": T, "cancel_unavail": B},
    **{"target_state": T, "price": opt(N), "image_login": opt(T), "python_utf8": opt(B), "lang_utf8": opt(B), "force": opt(B)},
}
_VAST_ASK = {
    **{"id": N, "ask_contract_id": N, "machine_id": N, "host_id": N, "num_gpus": N, "gpu_name": T, "gpu_ram": N, "gpu_total_ram": N},
    **{"cuda_max_good": N, "cpu_cores": opt(N), "cpu_cores_effective": opt(N), "cpu_ram": N, "disk_space": N, "inet_up": N},
    **{"inet_down": N, "inet_up_cost": N, "inet_down_cost": N, "storage_cost": N, "dph_base": N, "dph_total": N, "min_bid": opt(N)},
    **{"is_bid": B, "reliability2": N, "rentable": B, "rented": B, "direct_port_count": N, "geolocation": opt(T), "duration": N},
    **{"end_date": N, "hosting_type": opt(N)},
}
_VAST_SEARCH = {
    **{name: opt(_OP) for name in ("verified", "external", "rentable", "rented", "gpu_name", "num_gpus", "gpu_ram", "reliability2")},
    **{name: opt(_OP) for name in ("cuda_max_good", "inet_down", "inet_down_cost", "inet_up_cost", "disk_space", "direct_port_count")},
    **{name: opt(_OP) for name in ("duration", "dph_total", "geolocation", "datacenter")},
    **{"type": T, "order": [[T]], "limit": N, "allocated_storage": N},
}
_POD = {
    **{"id": T, "name": T, "status": T, "actions": [T], "image": T, "disk": N, "gpu": {"id": T, "count": N}, "cloud": T, "cost": N},
    **{"env": {"*": T}, "ports": [T], "createdAt": T, "startedAt": opt(T), "runtime": opt(ANY)},
    "ssh": {
        "direct": opt({"host": T, "port": N, "username": T, "command": T}),
        "proxy": opt({"host": T, "port": N, "username": T, "command": T}),
    },
}
_POD_INPUT = {
    **{"name": T, "imageName": T, "gpuTypeId": T, "cloudType": T, "gpuCount": N, "containerDiskInGb": N, "volumeInGb": N, "ports": T},
    **{"volumeMountPath": opt(T), "dockerArgs": T, "env": [{"key": T, "value": T}], "supportPublicIp": opt(B), "startSsh": opt(B)},
    **{"dataCenterId": opt(T), "countryCode": opt(T), "minCudaVersion": opt(T), "terminateAfter": opt(T), "stopAfter": opt(T)},
}
_POD_BODY = {
    **{"name": T, "image": T, "cloud": T, "gpu": {"id": T, "count": N, "minCudaVersion": opt(T)}, "dataCenterIds": opt([T]), "disk": N},
    **{"mounts": opt(ANY), "ports": [T], "env": {"*": T}, "args": T, "startSsh": B, "registry": opt(ANY)},
}
_PROBLEM = {"title": T, "status": N, "detail": T}
_TYPE = {
    "name": T,
    "description": T,
    "gpu_description": T,
    "price_cents_per_hour": N,
    "specs": {"vcpus": N, "memory_gib": N, "storage_gib": N, "gpus": N},
}
_REGION = {"name": T, "description": T}
_LAMBDA_INSTANCE = {
    **{"id": T, "name": opt(T), "ip": opt(T), "private_ip": opt(T), "status": T, "ssh_key_names": [T], "file_system_names": [T]},
    **{"region": _REGION, "instance_type": _TYPE, "hostname": opt(T), "actions": ANY, "tags": opt([{"key": T, "value": T}])},
}
_LAMBDA_ERROR = {"error": {"code": T, "message": T, "suggestion": opt(T)}}
_LAMBDA_LAUNCH = {
    **{"region_name": T, "instance_type_name": T, "ssh_key_names": [T], "name": opt(T), "tags": opt([{"key": T, "value": T}])},
    **{"hostname": opt(T), "image": opt(ANY), "user_data": opt(T), "file_system_names": opt([T])},
}
_SSH_KEY = {"id": T, "name": T, "public_key": T}
_GRAPHQL = {"query": T, "variables": ANY}

# (method, path with {}) -> (query keys, shape of the request's body, {status: shape of the reply})
ENDPOINTS = {
    "vastai": {
        ("POST", "/api/v0/bundles/"): ((), _VAST_SEARCH, {200: {"offers": [_VAST_ASK]}}),
        ("PUT", "/api/v0/asks/{}/"): ((), _VAST_RENTAL, {200: {"success": B, "new_contract": N, "instance_api_key": T}}),
        ("GET", "/api/v1/instances/"): (
            ("limit", "select_filters", "order_by", "select_cols", "after_token"),
            NULL,
            {200: {"success": B, "instances_found": N, "total_instances": N, "next_token": opt(T), "instances": [_VAST_INSTANCE]}},
        ),
        ("GET", "/api/v0/instances/{}/"): ((), NULL, {200: {"instances": opt(_VAST_INSTANCE)}}),
        ("DELETE", "/api/v0/instances/{}/"): ((), {}, {200: {"success": B, "msg": T}, 404: {"success": B, "error": T, "msg": T}}),
        ("GET", "/api/v0/users/current/"): ((), NULL, {200: {"id": N, "email": T, "credit": N, "balance": N}}),
        ("GET", "/api/v0/charges/"): (
            ("select_filters", "format", "latest_first", "limit", "after_token"),
            NULL,
            {
                200: {
                    "success": B,
                    "next_token": opt(T),
                    "results": [
                        {
                            **{"start": N, "end": N, "type": T, "source": T, "amount": N, "metadata": ANY},
                            "items": [{"type": T, "start": N, "end": N, "description": T, "amount": N}],
                        }
                    ],
                }
            },
        ),
        ("PUT", "/api/v0/instances/bid_price/{}/"): ((), {"client_id": T, "price": N}, {200: {"success": B}}),
        ("PUT", "/api/v0/instances/request_logs/{}/"): ((), {"tail": T}, {200: {"success": B, "result_url": T}}),
        ("GET", "https://s3.example.org/logs/{}"): ((), NULL, {200: None}),
    },
    "runpod": {
        ("GET", "/v2/catalog/gpus"): (
            ("include", "product", "cloud", "count", "minCudaVersion", "countryCodes"),
            NULL,
            {
                200: {
                    "gpus": [
                        {
                            **{"id": T, "name": T, "pool": opt(T), "manufacturer": T, "memory": N, "secure": B, "community": B},
                            **{"price": {"secure": opt(N), "community": opt(N), "serverless": opt(N)}},
                            **{"maxCount": {"secure": N, "community": N}, "availability": T},
                            **{"dataCenters": opt([{"id": T, "name": T, "availability": T}])},
                            **{"cudaVersions": opt([{"version": T, "available": B}])},
                        }
                    ]
                }
            },
        ),
        ("POST", "/graphql"): ((), _GRAPHQL, {200: {"data": ANY}, 410: ANY}),
        ("POST", "/v2/pods"): ((), _POD_BODY, {201: _POD}),
        ("GET", "/v2/pods"): ((), NULL, {200: {"pods": [_POD]}}),
        ("GET", "/v2/pods/{}"): ((), NULL, {200: _POD, 404: _PROBLEM}),
        ("DELETE", "/v2/pods/{}"): ((), NULL, {204: None, 404: _PROBLEM}),
        ("GET", "/v2/pods/{}/logs"): (("source", "tail", "since"), NULL, {200: None}),
        ("GET", "/v2/billing/pods"): (
            ("startTime", "endTime", "bucketSize", "podId"),
            NULL,
            {
                200: {
                    "records": [
                        {
                            **{"startTime": T, "endTime": T, "podId": T, "totalAmount": N, "gpuAmount": N, "cpuAmount": N},
                            "diskAmount": N,
                        }
                    ],
                    "metadata": ANY,
                }
            },
        ),
    },
    "lambda": {
        ("GET", "/api/v1/instance-types"): (
            (),
            NULL,
            {200: {"data": {"*": {"instance_type": _TYPE, "regions_with_capacity_available": [_REGION]}}}},
        ),
        ("POST", "/api/v1/instance-operations/launch"): ((), _LAMBDA_LAUNCH, {200: {"data": {"instance_ids": [T]}}}),
        ("GET", "/api/v1/instances"): ((), NULL, {200: {"data": [_LAMBDA_INSTANCE]}}),
        ("GET", "/api/v1/instances/{}"): ((), NULL, {200: {"data": _LAMBDA_INSTANCE}, 404: _LAMBDA_ERROR}),
        ("POST", "/api/v1/instance-operations/terminate"): (
            (),
            {"instance_ids": [T]},
            {200: {"data": {"terminated_instances": [_LAMBDA_INSTANCE]}}, 404: _LAMBDA_ERROR},
        ),
        ("GET", "/api/v1/ssh-keys"): ((), NULL, {200: {"data": [_SSH_KEY]}}),
        ("POST", "/api/v1/ssh-keys"): ((), {"name": T, "public_key": T}, {200: {"data": _SSH_KEY}}),
    },
}

GRAPHQL_INPUTS = {"podFindAndDeployOnDemand": _POD_INPUT}
GRAPHQL_DATA = {
    "podFindAndDeployOnDemand": {"id": T, "costPerHr": N, "desiredStatus": T},
    "myself": {"id": T, "clientBalance": N, "currentSpendPerHr": N, "spendLimit": N},
}
