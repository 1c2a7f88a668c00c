"""RunPod's GraphQL API: prices, spot, deadlines and the balance live only here."""

from __future__ import annotations

import shlex
from decimal import Decimal
from typing import TYPE_CHECKING, Any, cast

from graphql import GraphQLError, GraphQLResolveInfo, build_schema, execute_sync, parse, validate
from graphql.language import FieldNode, OperationDefinitionNode, print_ast

from providers.emulator import runpod_rows as rows
from providers.emulator.clock import parse as parse_time
from providers.emulator.hardware import GPUS, RUNPOD_DATA_CENTERS, Gpu
from providers.emulator.runpod_cloud import Deployment, NoBalance, NoCapacity, NotAllowed, Pod, RunpodCloud, Tier
from providers.emulator.wire import Json, Reply, Request, reply_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from providers.emulator.clock import Moment

Info = GraphQLResolveInfo[Any]
SCHEMA = """
scalar Void
scalar DateTime
enum CloudTypeEnum { ALL SECURE COMMUNITY }
enum PodStatus { CREATED RUNNING RESTARTING EXITED PAUSED DEAD TERMINATED }
input GpuTypeFilter { id: String ids: [String] }
input GpuLowestPriceInput {
  gpuCount: Int! minDisk: Int minMemoryInGb: Int minVcpuCount: Int secureCloud: Boolean dataCenterId: String countryCode: String
  minCudaVersion: String supportPublicIp: Boolean minDownload: Int minUpload: Int totalDisk: Int allowedCudaVersions: [String]
  compliance: [String]
}
type LowestPrice {
  gpuName: String gpuTypeId: String minimumBidPrice: Float uninterruptablePrice: Float minMemory: Int minVcpu: Int rentalPercentage: Float
  stockStatus: String availableGpuCounts: [Int] maxUnreservedGpuCount: Int countryCode: String
}
type GpuType {
  id: String displayName: String manufacturer: String memoryInGb: Int cudaCores: Int maxGpuCount: Int maxGpuCountSecureCloud: Int
  maxGpuCountCommunityCloud: Int secureCloud: Boolean communityCloud: Boolean securePrice: Float communityPrice: Float
  secureSpotPrice: Float communitySpotPrice: Float oneMonthPrice: Float threeMonthPrice: Float oneWeekPrice: Float
  lowestPrice(input: GpuLowestPriceInput): LowestPrice
}
type Machine { podHostId: String gpuDisplayName: String gpuTypeId: String location: String dataCenterId: String }
type PodPort { ip: String isIpPublic: Boolean privatePort: Int publicPort: Int type: String }
type PodRuntime { uptimeInSeconds: Int ports: [PodPort] }
type Pod {
  id: String! name: String imageName: String env: [String] containerDiskInGb: Int volumeInGb: Float volumeMountPath: String costPerHr: Float
  adjustedCostPerHr: Float desiredStatus: PodStatus! dockerArgs: String dockerId: String gpuCount: Int lastStatusChange: String
  machineId: String memoryInGb: Float podType: String port: Int ports: String uptimeSeconds: Int vcpuCount: Float createdAt: DateTime
  runtime: PodRuntime machine: Machine templateId: String networkVolumeId: String
}
type NetworkVolume { id: String name: String size: Int dataCenterId: String }
type User {
  id: String email: String pubKey: String clientBalance: Float currentSpendPerHr: Float spendLimit: Float networkVolumes: [NetworkVolume]
  pods: [Pod] minBalance: Float underBalance: Boolean
}
input PodFilter { podId: String! }
type Query { gpuTypes(input: GpuTypeFilter): [GpuType] myself: User pod(input: PodFilter): Pod }
input EnvironmentVariableInput { key: String! value: String! }
input PodFindAndDeployOnDemandInput {
  name: String imageName: String gpuTypeId: String gpuTypeIdList: [String] cloudType: CloudTypeEnum gpuCount: Int containerDiskInGb: Int
  volumeInGb: Int volumeMountPath: String minVcpuCount: Int minMemoryInGb: Int dockerArgs: String ports: String
  env: [EnvironmentVariableInput] templateId: String networkVolumeId: String dataCenterId: String countryCode: String
  supportPublicIp: Boolean startSsh: Boolean startJupyter: Boolean allowedCudaVersions: [String] minCudaVersion: String
  containerRegistryAuthId: String stopAfter: DateTime terminateAfter: DateTime compliance: [String] minDownload: Int minUpload: Int
  minDisk: Int globalNetwork: Boolean
}
input PodRentInterruptableInput {
  bidPerGpu: Float!
  name: String imageName: String gpuTypeId: String gpuTypeIdList: [String] cloudType: CloudTypeEnum gpuCount: Int containerDiskInGb: Int
  volumeInGb: Int volumeMountPath: String minVcpuCount: Int minMemoryInGb: Int dockerArgs: String ports: String
  env: [EnvironmentVariableInput] templateId: String networkVolumeId: String dataCenterId: String countryCode: String
  supportPublicIp: Boolean startSsh: Boolean startJupyter: Boolean allowedCudaVersions: [String] minCudaVersion: String
  containerRegistryAuthId: String stopAfter: DateTime terminateAfter: DateTime compliance: [String] minDownload: Int minUpload: Int
  minDisk: Int globalNetwork: Boolean
}
input PodStopInput { podId: String! incrementVersion: Boolean }
input PodResumeInput { podId: String! gpuCount: Int syncMachine: Boolean }
input PodBidResumeInput { podId: String! bidPerGpu: Float! gpuCount: Int! }
input PodTerminateInput { podId: String! }
input UpdateUserSettingsInput { pubKey: String }
type Mutation {
  podFindAndDeployOnDemand(input: PodFindAndDeployOnDemandInput): Pod
  podRentInterruptable(input: PodRentInterruptableInput!): Pod
  podStop(input: PodStopInput!): Pod
  podResume(input: PodResumeInput!): Pod
  podBidResume(input: PodBidResumeInput!): Pod
  podTerminate(input: PodTerminateInput!): Void
  updateUserSettings(input: UpdateUserSettingsInput): User
}
"""
CALLS = {
    "podFindAndDeployOnDemand": "create",
    "podRentInterruptable": "create",
    "podTerminate": "terminate",
    "podStop": "stop",
    "podResume": "start",
    "podBidResume": "start",
    "gpuTypes": "offers",
    "pod": "get",
    "updateUserSettings": "keys",
}


class GraphQL:
    """Parses, validates and executes queries against the part of the schema that a tenant of pods uses."""

    def __init__(self, cloud: RunpodCloud, shift: Callable[[], Moment]) -> None:
        self.cloud = cloud
        self.world = cloud.world
        self._shift = shift
        self._schema = build_schema(SCHEMA)

    def error(self, message: str, code: str, status: int, path: list[str] | None = None) -> Reply:
        """Return an error as GraphQL words it."""
        return reply_json({"errors": [{"message": message, "path": path or [], "extensions": {"code": code}}], "data": None}, status)

    def call_of(self, request: Request) -> str:
        """Return what a query does, by its fields."""
        fields = self._fields(request)
        for field in fields:
            if field.name.value != "myself":
                return CALLS.get(field.name.value, "account")
            inner = {
                one.name.value for one in (field.selection_set.selections if field.selection_set else ()) if isinstance(one, FieldNode)
            }
            if "pods" in inner:
                return "list"
            return "balance" if "clientBalance" in inner else "account"
        return "account"

    def only_about(self, request: Request, pod_id: str) -> bool:
        """Tell whether a query names one pod and touches nothing else."""
        fields = self._fields(request)
        body = self._body(request)
        variables = str(body.get("variables") or "")
        return bool(fields) and all(
            field.name.value in ("pod", "podStop", "podTerminate") and (pod_id in print_ast(field) or pod_id in variables)
            for field in fields
        )

    def handle(self, request: Request, _: dict[str, str]) -> Reply:
        """Answer a query: 400 when it does not fit the schema, 200 with `errors` when it fails."""
        body = self._body(request)
        query = body.get("query")
        if not isinstance(query, str):
            return self.error("Must provide query string.", "BAD_REQUEST", 400)
        try:
            document = parse(query)
        except GraphQLError as error:
            return self.error(error.message, "GRAPHQL_PARSE_FAILED", 400)
        if mistakes := validate(self._schema, document):
            errors = [{"message": one.message, "extensions": {"code": "GRAPHQL_VALIDATION_FAILED"}} for one in mistakes]
            return reply_json({"errors": errors}, 400)
        variables = body.get("variables") if isinstance(body.get("variables"), dict) else None
        result = execute_sync(
            self._schema, document, root_value=_Root(self), variable_values=variables, operation_name=body.get("operationName")
        )
        answer: Json = {"data": result.data}
        if result.errors:
            answer = {"errors": [self._shown(one) for one in result.errors], "data": result.data}
        return reply_json(answer)

    def _shown(self, error: GraphQLError) -> Json:
        code = "INTERNAL_SERVER_ERROR"
        if isinstance(error.original_error, NoCapacity) and self.world.options.unverified.runpod_supply_code:
            code = "SUPPLY_CONSTRAINT"
        return {"message": error.message, "path": error.path or [], "extensions": {"code": code}}

    @staticmethod
    def _body(request: Request) -> Json:
        try:
            body = request.json()
        except ValueError:
            return {}
        return body if isinstance(body, dict) else {}

    def _fields(self, request: Request) -> list[FieldNode]:
        try:
            document = parse(str(self._body(request).get("query") or ""))
        except GraphQLError:
            return []
        operations = [one for one in document.definitions if isinstance(one, OperationDefinitionNode)]
        return [one for operation in operations for one in operation.selection_set.selections if isinstance(one, FieldNode)]

    # What the fields resolve to

    def gpu_types(self, wanted: Json | None) -> list[Json]:
        """Return the GPU types, all or those asked for. Prices are per GPU."""
        ids = {(wanted or {}).get("id"), *((wanted or {}).get("ids") or ())} - {None}
        return [self._gpu_type(gpu) for gpu in GPUS if gpu.runpod_display and (not ids or gpu.name in ids)]

    def _gpu_type(self, gpu: Gpu) -> Json:
        secure, community = self.cloud.prices.get((gpu.name, "SECURE")), self.cloud.prices.get((gpu.name, "COMMUNITY"))
        return {
            "id": gpu.name,
            "displayName": gpu.runpod_display,
            "manufacturer": "Nvidia",
            "memoryInGb": round(gpu.memory_mib / 1024),
            "cudaCores": 0,
            "maxGpuCount": 8,
            "maxGpuCountSecureCloud": 8 if secure else 0,
            "maxGpuCountCommunityCloud": 4 if community else 0,
            "secureCloud": secure is not None,
            "communityCloud": community is not None,
            "securePrice": _number(secure) or 0,
            "communityPrice": _number(community) or 0,
            "secureSpotPrice": _number(self.cloud.spot_price(gpu.name, "SECURE")) or 0,
            "communitySpotPrice": _number(self.cloud.spot_price(gpu.name, "COMMUNITY")) or 0,
            "oneMonthPrice": None,
            "threeMonthPrice": None,
            "oneWeekPrice": None,
            "lowestPrice": lambda _info, input=None: self._lowest(gpu, input or {"gpuCount": 1}),
        }

    def _lowest(self, gpu: Gpu, wanted: Json) -> Json:
        count = int(wanted.get("gpuCount") or 1)
        secure = wanted.get("secureCloud")
        tiers = cast("tuple[Tier, ...]", ("SECURE", "COMMUNITY") if secure is None else ("SECURE",) if secure else ("COMMUNITY",))
        places = [
            place
            for place, (_, _, country) in RUNPOD_DATA_CENTERS.items()
            if wanted.get("dataCenterId") in (None, place) and wanted.get("countryCode") in (None, country)
        ]
        free = {
            (tier, place): self.cloud.free(gpu.name, tier, place)
            for tier in tiers
            for place in places
            if (gpu.name, tier) in self.cloud.prices
        }
        best = max(free.values(), default=0)
        having = sorted({tier for (tier, _), number in free.items() if number >= count}, key=lambda tier: self.cloud.prices[gpu.name, tier])
        tier = having[0] if having else None
        return {
            "gpuName": gpu.runpod_display,
            "gpuTypeId": gpu.name,
            "minimumBidPrice": _number(self.cloud.spot_price(gpu.name, tier)) if tier else None,
            "uninterruptablePrice": _number(self.cloud.prices[gpu.name, tier]) if tier else None,
            "minMemory": 41 * count if tier else None,
            "minVcpu": 6 * count if tier else None,
            "rentalPercentage": 0.5,
            "stockStatus": rows.level(best, count).title() if tier else None,
            "availableGpuCounts": [number for number in (1, 2, 4, 8) if number <= best],
            "maxUnreservedGpuCount": best,
            "countryCode": None,
        }

    def user(self) -> Json:
        """Return the account."""
        account = self.world.accounts[self.cloud.name]
        spending = sum((pod.meter.rate("gpu") + pod.meter.rate("disk") + pod.meter.rate("volume") for pod in self.cloud.pods()), Decimal(0))
        return {
            "id": "user_sandbox",
            "email": "sandbox@example.invalid",
            "pubKey": "\n".join(account.ssh_keys.values()),
            "clientBalance": float(self.world.credit(self.cloud.name)),
            "currentSpendPerHr": float(spending),
            "spendLimit": 80.0,
            "minBalance": 0.0,
            "underBalance": False,
            "networkVolumes": [],
            "pods": [rows.pod_graphql(pod, self.world.now, self._shift()) for pod in self.listed()],
        }

    def listed(self) -> list[Pod]:
        """Return the pods that a list shows."""
        from providers.emulator.runpod_rest import listed

        return listed(self.cloud)

    def pod(self, pod_id: str) -> Pod:
        """Return a pod. Raises GraphQLError when there is none."""
        found = self.cloud.pod(pod_id)
        if found is None:
            raise GraphQLError(f"pod not found to terminate: {pod_id}")
        return found

    def shown(self, pod: Pod) -> Json:
        """Return a pod as GraphQL shows it."""
        return rows.pod_graphql(pod, self.world.now, self._shift())

    def deploy(self, wanted: Json, *, spot: bool) -> Json:
        """Create a pod."""
        try:
            order = _deployment(wanted, spot=spot)
        except ValueError as error:
            raise GraphQLError(f"invalid input: {error}") from None
        try:
            return self.shown(self.cloud.deploy(order))
        except NoBalance:
            raise GraphQLError("Your account balance is too low to rent this pod. Please add funds.") from None


class _Root:
    """The resolvers of the queries and mutations, by the schema's names."""

    def __init__(self, api: GraphQL) -> None:
        self._api = api

    def gpuTypes(self, _info: Info, input: Json | None = None) -> list[Json]:
        return self._api.gpu_types(input)

    def myself(self, _info: Info) -> Json:
        return self._api.user()

    def pod(self, _info: Info, input: Json) -> Json | None:
        found = self._api.cloud.pod(input["podId"])
        return None if found is None else self._api.shown(found)

    def podFindAndDeployOnDemand(self, _info: Info, input: Json) -> Json:
        return self._api.deploy(input, spot=False)

    def podRentInterruptable(self, _info: Info, input: Json) -> Json:
        if not self._api.world.options.unverified.runpod_spot_sold:
            raise GraphQLError("Spot instances are no longer offered.")
        return self._api.deploy(input, spot=True)

    def podStop(self, _info: Info, input: Json) -> Json:
        pod = self._api.pod(input["podId"])
        try:
            self._api.cloud.stop(pod)
        except NotAllowed as error:
            raise GraphQLError(str(error)) from None
        return self._api.shown(pod)

    def podResume(self, _info: Info, input: Json) -> Json:
        pod = self._api.pod(input["podId"])
        try:
            self._api.cloud.start(pod)
        except NotAllowed as error:
            raise GraphQLError(str(error)) from None
        return self._api.shown(pod)

    def podBidResume(self, info: Info, input: Json) -> Json:
        return self.podResume(info, input)

    def podTerminate(self, _info: Info, input: Json) -> None:
        self._api.cloud.terminate(self._api.pod(input["podId"]))

    def updateUserSettings(self, _info: Info, input: Json | None = None) -> Json:
        lines = str((input or {}).get("pubKey") or "").splitlines()
        self._api.world.accounts["runpod"].ssh_keys = {str(n): line.strip() for n, line in enumerate(lines) if line.strip()}
        return self._api.user()


def _number(amount: Decimal | None) -> float | None:
    return None if amount is None else float(amount)


def _deployment(wanted: Json, *, spot: bool) -> Deployment:
    def moment(name: str) -> Moment | None:
        return parse_time(wanted[name]) if wanted.get(name) else None

    tiers: dict[str, tuple[Tier, ...]] = {"SECURE": ("SECURE",), "COMMUNITY": ("COMMUNITY",), "ALL": ("SECURE", "COMMUNITY")}
    data_center, country, least = wanted.get("dataCenterId"), wanted.get("countryCode"), wanted.get("minCudaVersion")
    return Deployment(
        name=str(wanted.get("name") or "my pod"),
        image=str(wanted.get("imageName") or ""),
        gpu_id=str(wanted.get("gpuTypeId") or ""),
        count=int(wanted.get("gpuCount") or 1),
        tiers=tiers[wanted.get("cloudType") or "ALL"],
        data_centers=(str(data_center),) if data_center else (),
        countries=(str(country),) if country else (),
        disk_gb=int(wanted.get("containerDiskInGb") or 50),
        volume_gb=int(wanted.get("volumeInGb") or 0),
        mount_path=str(wanted.get("volumeMountPath") or "/workspace"),
        ports=tuple(part.strip() for part in str(wanted.get("ports") or "").split(",") if part.strip()),
        env={str(one["key"]): str(one["value"]) for one in wanted.get("env") or ()},
        command=tuple(shlex.split(str(wanted.get("dockerArgs") or ""))),
        args_text=str(wanted.get("dockerArgs") or ""),
        start_ssh=bool(wanted.get("startSsh")),
        spot=spot,
        bid_per_gpu=Decimal(str(wanted["bidPerGpu"])) if spot else None,
        min_cuda=str(least) if least else None,
        allowed_cuda=tuple(str(one) for one in wanted.get("allowedCudaVersions") or ()),
        stop_after=moment("stopAfter"),
        terminate_after=moment("terminateAfter"),
    )
