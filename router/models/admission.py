"""The gate before traffic: which checks a model must pass, in which order, and what is recorded of each.

    size → files → signature → formats → graph → runtime → inputs and outputs → golden requests → warm-up

What is cheap, and what needs to trust the least, comes first: nothing of a file is parsed before it is known to be the
file that was published, and nothing runs before it has been looked through. Names have been checked when the tree was
built. The first check that says no ends it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from router.domain.model_tree import ModelTree, graph_of
from router.domain.triton_repository import CONFIG, MAX_CONFIG_BYTES
from router.models.formats import check_claims, check_formats, check_size, model_of
from router.models.interface import changes
from router.models.ports import AdmissionRefused, Admitted, Candidate, SourceLimits
from router.models.signing import MAX_BUNDLE_BYTES, NotSigned, SignaturePolicy, Verifier, check_signed, signature_files
from router.models.trial import Check, Finding, GraphFacts, Loaded, Ran, Trial, TrialJob, TrialLimits
from router.models.triton_layout import CONFIG_SUFFIX, TritonConfig, check_config, check_no_ensemble, check_served
from serving.signature import Signature

log = logging.getLogger(__name__)

Wanted = TypeVar("Wanted", GraphFacts, Loaded, Ran)


class Files(Protocol):
    """A model's folder. Implemented by adapters/candidate_files.py."""

    def heads(self, folder: str, tree: ModelTree) -> dict[str, bytes]:
        """Path → first bytes, of files that are exactly those of the tree. Raises `AdmissionRefused`."""

    def read(self, folder: str, path: str, max_bytes: int) -> bytes:
        """Raises `AdmissionRefused` when it is larger."""


class Configs(Protocol):
    """Implemented by adapters/triton_config.py."""

    def read(self, path: str, content: bytes) -> TritonConfig:
        """Raises `AdmissionRefused` when it is none."""


@dataclass(frozen=True, slots=True)
class Eyes:
    """What the gate looks with."""

    files: Files
    configs: Configs
    verifier: Verifier
    trial: Trial


@dataclass(frozen=True, slots=True)
class _Runs:
    """`graphs`: those that run. `note`: what that is. `signature`: what an ensemble takes and gives; None: there is one
    graph, which has its own."""

    graphs: tuple[str, ...]
    note: str
    signature: Signature | None = None


@dataclass(frozen=True, slots=True)
class AdmissionRules:
    """`allow_python_models`: a Triton repository may bring a `model.py`, which then runs with the server's rights."""

    policy: SignaturePolicy = SignaturePolicy.OFF
    allow_python_models: bool = False
    sizes: SourceLimits = field(default_factory=SourceLimits)
    trial: TrialLimits = field(default_factory=TrialLimits)


class ModelAdmission:
    """Implements `Admission`. One trial at a time: it may take as much memory as the limits say."""

    def __init__(self, rules: AdmissionRules, eyes: Eyes) -> None:
        self._rules = rules
        self._eyes = eyes
        self._one = asyncio.Semaphore(1)

    async def admit(self, candidate: Candidate) -> Admitted:
        """Raises `AdmissionRefused`."""
        tree = candidate.tree
        notes: dict[Check, str] = {}
        check_size(tree, self._rules.sizes)
        notes[Check.SIZE] = f"{_counted(len(tree.files), 'file')}, {tree.size} bytes"
        heads = await asyncio.to_thread(self._eyes.files.heads, candidate.folder, tree)
        notes[Check.FILES] = "regular files with one name each, every sha256 as published"
        signer, notes[Check.SIGNATURE] = await asyncio.to_thread(self._signed, candidate)
        graphs = check_formats(heads, self._rules.allow_python_models)
        runs = _runs(candidate, graphs, await asyncio.to_thread(self._checked_configs, candidate))
        notes[Check.FORMATS] = f"{runs.note}, and nothing else runs"
        if self._rules.allow_python_models and any(path.endswith(".py") for path in heads):
            notes[Check.FORMATS] = f"{runs.note}; Python code comes with it, as allow_python_models allows"
        async with self._one:
            signature = await self._tried(candidate, graphs, runs, heads, notes)
        return Admitted(tuple((str(check), note) for check, note in notes.items()), signature, signer)

    def _checked_configs(self, candidate: Candidate) -> dict[str, TritonConfig]:
        """By their paths. Raises `AdmissionRefused`."""
        found = {}
        for file in candidate.tree.files:
            if file.path.lower().endswith(CONFIG_SUFFIX):
                content = self._eyes.files.read(candidate.folder, file.path, MAX_CONFIG_BYTES)
                config = self._eyes.configs.read(file.path, content)
                check_config(file.path, config, self._rules.allow_python_models)
                found[file.path] = config
        return found

    def _signed(self, candidate: Candidate) -> tuple[str, str]:
        """The signer, and what to note. Raises `AdmissionRefused` where the policy says so."""
        policy = self._rules.policy
        if policy is SignaturePolicy.OFF:
            return "", "not looked at: the policy is off"
        try:
            signer = self._signer(candidate)
        except AdmissionRefused as refused:
            if policy is SignaturePolicy.REQUIRE:
                raise
            log.warning(
                "a model without a good signature is let in", extra={"model": candidate.pinned, "reason": refused.found}
            )
            return "", f"none that counts, and the policy only warns: {refused.found}"
        return signer, f"all files are signed by {signer}"

    def _signer(self, candidate: Candidate) -> str:
        """Raises `AdmissionRefused`."""
        why = []
        for path in signature_files(candidate.tree):
            bundle = self._eyes.files.read(candidate.folder, path, MAX_BUNDLE_BYTES)
            try:
                signed = self._eyes.verifier.verify(bundle)
            except NotSigned as error:
                why.append(f"{path!r} is no signature that counts: {error}")
                continue
            check_signed(signed, candidate.tree)
            return signed.signer
        raise AdmissionRefused(
            Check.SIGNATURE,
            "; ".join(why) or "the model has no signature (model.sig)",
            "sign it with a key that signatures.keys names: model_signing sign key",
        )

    async def _tried(
        self,
        candidate: Candidate,
        graphs: tuple[str, ...],
        runs: _Runs,
        heads: Mapping[str, bytes],
        notes: dict[Check, str],
    ) -> Signature:
        """Raises `AdmissionRefused`."""
        first, *others = runs.graphs
        async with self._eyes.trial.begin(_job(candidate, graphs, first, self._rules.trial)) as findings:
            looked_at = [await _next(findings, GraphFacts) for _ in graphs]
            check_claims(heads, (path for graph in looked_at for path in graph.external))
            notes[Check.GRAPH] = "; ".join(map(_graph_note, looked_at))
            loaded = await _next(findings, Loaded)
            notes[Check.RUNTIME] = f"{loaded.runtime} loads it in {loaded.load_s:.2f} s"
            signature = runs.signature or loaded.signature
            notes[Check.INTERFACE] = _interface_note(candidate, signature)
            ran = await _next(findings, Ran)
            notes[Check.GOLDEN] = f"{ran.golden} answered as expected" if ran.golden else "none were given"
            notes[Check.WARM_UP] = f"ran in {ran.run_s * 1000:.1f} ms, {ran.peak_bytes / 1024**2:.0f} MiB at most"
        for part in others:
            async with self._eyes.trial.begin(_job(candidate, (), part, self._rules.trial)) as findings:
                loaded, ran = await _next(findings, Loaded), await _next(findings, Ran)
            notes[Check.RUNTIME] += f"; {part} in {loaded.load_s:.2f} s"
            notes[Check.WARM_UP] += f"; {part} in {ran.run_s * 1000:.1f} ms, {ran.peak_bytes / 1024**2:.0f} MiB"
        return signature


def _runs(candidate: Candidate, graphs: tuple[str, ...], configs: Mapping[str, TritonConfig]) -> _Runs:
    """Raises `AdmissionRefused` when it is not clear what the model is."""
    deployment = candidate.deployment
    chosen = deployment.reference.entry
    if deployment.managed is not None and not chosen:
        paths = tuple(file.path for file in candidate.tree.files)
        served = check_served(paths, configs, deployment.managed.model)
        if served is not None and served.top.is_ensemble:
            if candidate.golden:
                raise AdmissionRefused(
                    Check.GOLDEN,
                    f"{served.top.name} is an ensemble, and golden requests are asked of a graph",
                    "remove golden_requests",
                )
            parts = ", ".join(part.name for part in served.parts)
            signature = configs[f"{served.top.folder}/{CONFIG}"].signature
            return _Runs(served.graphs, f"{served.top.name} is the model, an ensemble of {parts}", signature)
        chosen = served.top.graph if served is not None else ""
    chosen = chosen or graph_of(graphs)
    if not chosen:
        check_no_ensemble(configs)
    model = model_of(graphs, chosen)
    return _Runs((model,), f"{model} is the model")


async def _next(findings: AsyncIterator[Finding], wanted: type[Wanted]) -> Wanted:
    finding = await anext(findings, None)
    if not isinstance(finding, wanted):
        raise AdmissionRefused(
            Check.RUNTIME, "the trial's process said something out of turn", "do not trust this model"
        )
    return finding


def _job(candidate: Candidate, graphs: tuple[str, ...], model: str, limits: TrialLimits) -> TrialJob:
    files = {file.path: file for file in candidate.tree.files}
    return TrialJob(
        folder=candidate.folder,
        graphs=graphs,
        model=model,
        sha256=files[model].sha256,
        sizes={path: file.size for path, file in files.items()},
        golden=candidate.golden,
        limits=limits,
    )


def _graph_note(graph: GraphFacts) -> str:
    parts = [_counted(graph.nodes, "node")]
    parts += [
        _counted(count, word) for count, word in ((graph.subgraphs, "subgraph"), (graph.functions, "function")) if count
    ]
    if graph.external:
        parts.append(f"weights in {', '.join(graph.external)}")
    opsets = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in graph.opsets)
    return f"{graph.path}: {', '.join(parts)}; IR {graph.ir_version}, opsets {opsets}"


def _interface_note(candidate: Candidate, signature: Signature) -> str:
    """Raises `AdmissionRefused` when callers would notice, and nobody said that they may."""
    if candidate.live is None:
        return "nothing to compare with: no model answers yet"
    told = changes(candidate.live, signature)
    if not told:
        return "as those of the live model"
    if candidate.is_signature_change_allowed:
        return f"changed, as allowed: {'; '.join(told)}"
    raise AdmissionRefused(
        Check.INTERFACE,
        f"callers of the live model would notice: {'; '.join(told)}",
        "deploy it to an endpoint of its own, or say --allow-signature-change",
    )


def _counted(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"
