"""From settings to backbone, data, recipe and features; what did not change is not loaded again."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..backbones import load_backbone
from ..catalog import Explanation, FeatureStore, SetStatus, explain, set_status
from ..datasets import dataset_name, open_dataset
from ..engines import load_engine
from ..errors import DataNotFoundError, SplitError, StaleError, UnknownNameError
from ..extraction import (
    Example,
    ExtractReport,
    MissingTask,
    TaskSlice,
    example_of,
    extract,
    make_recipe,
    missing_tasks,
    remembered_snapshot,
    report_if_complete,
    samples_of,
    stored_example,
    views_recipe,
)
from ..hdf5 import check_compression
from ..identity import Recipe
from ..progress import ProgressCallback, silent
from ..quantity import parse_size
from ..samples import Samples, Snapshot, load_transform
from ..storages import LocalStorage, put_folder
from ..store import check_name
from .examples import sets_alike
from .remembered import read_last_cut, read_recipe, write_last_cut, write_recipe
from .settings import Settings

if TYPE_CHECKING:
    from ..backbones import Backbone
    from ..catalog import Recomputed
    from ..features import Features
    from ..heads import TrainedHead
    from ..splitting import Cut, Split

__all__ = ["Project"]


class Project:
    """The things that settings name, each loaded when it is first needed.

    Parameters
    ----------
    settings : Settings
        The settings.

    Attributes
    ----------
    settings : Settings
        The settings.
    notes : list of str
        Remarks, such as that the data is not at hand, or what a dataset left out.

    Raises
    ------
    UnknownNameError
        If the stored precision is unknown.

    Examples
    --------
    >>> import featcache
    >>> settings = featcache.Settings("bundled:resnet-mini", "sklearn:digits", store="features")
    >>> project = featcache.Project(settings)
    >>> [cut.name for cut in project.cuts()][-3:]
    ['layer4', 'avgpool', 'fc']
    >>> project.status("layer4").state
    'missing'
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.notes: list[str] = []
        self._recipes: dict[str, Recipe] = {}
        self._splits: dict[str, Split] = {}

    def __repr__(self) -> str:
        return f"Project({self.settings.backbone!r}, {self.settings.data!r}, store={self.settings.store!r})"

    @cached_property
    def store(self) -> FeatureStore:
        """The store."""
        return FeatureStore(self.settings.store)

    @cached_property
    def backbone(self) -> Backbone:
        """The loaded backbone."""
        return load_backbone(self.settings.backbone, self.settings.weights)

    @cached_property
    def dataset(self) -> Any:
        """The dataset that the data specification names."""
        chosen = self.settings
        return open_dataset(chosen.data, decoding=chosen.decoding, exif=chosen.exif, background=chosen.background)

    @cached_property
    def raw_samples(self) -> Samples:
        """The dataset's samples before any transform. They need no backbone."""
        samples = Samples(self.dataset)
        self.notes += samples.notes
        return samples

    @cached_property
    def samples(self) -> Samples:
        """The dataset's samples with the transform that leads to the backbone's input."""
        transform = load_transform(self.settings.transform, self.settings.image_size, self.backbone)
        return self.raw_samples.transformed(transform)

    @cached_property
    def snapshot(self) -> Snapshot:
        """What the dataset holds now. Unchanged files are not read.

        If the data is not at hand, this is what the last extract saw, and a note says so.
        """
        try:
            samples = self.raw_samples
        except DataNotFoundError:
            with suppress(StaleError):
                recorded = self.store.snapshot(dataset_name(self.settings.data))
                self.notes.append(
                    f"{self.settings.data} is not here: using the {len(recorded)} samples that the last extract saw"
                )
                return recorded
            raise
        return remembered_snapshot(samples, self.store)

    def split(self, cut: str) -> Split:
        """Return the backbone split at a cut.

        It is recorded on a few samples, or on inputs of them that the store keeps.

        Parameters
        ----------
        cut : str
            The module to cut after.

        Returns
        -------
        Split
            The split.

        Raises
        ------
        UnknownCutError
            If the backbone has no such module.
        SplitError
            If caching at the cut is unsound.
        """
        if cut not in self._splits:
            from ..splitting import split

            example = self._example([cut])
            self._splits[cut] = split(self.backbone.model, cut, example.inputs, example.other_length)
        return self._splits[cut]

    def splits(self, cuts: Sequence[str]) -> Split | list[Split]:
        """Return the backbone split at a cut, or at each of several, from one recording.

        Parameters
        ----------
        cuts : sequence of str
            The modules to cut after.

        Returns
        -------
        Split or list of Split
            The split, or a list of them for several cuts.

        Raises
        ------
        UnknownCutError
            If the backbone has no such module.
        SplitError
            If caching at a cut is unsound.
        """
        if len(cuts) == 1:
            return self.split(cuts[0])
        from ..splitting import split_at

        example = self._example(cuts)
        found = split_at(self.backbone.model, cuts, example.inputs, example.other_length)
        self._splits.update(zip(cuts, found, strict=True))
        return found

    def boundaries(self) -> list[str]:
        """List the cuts worth comparing, which ``probe`` scores, in the order of computation.

        Returns
        -------
        list of str
            The names of the cuts.

        Raises
        ------
        SplitError
            If the backbone cannot be recorded.
        """
        from ..advise import boundaries
        from ..splitting import cuts

        example = self._example(sorted({recipe.cut for recipe in self.store.recipes()}))
        return [cut.name for cut in boundaries(cuts(self.backbone.model, example.inputs, example.other_length))]

    def cuts(self) -> list[Cut]:
        """List the candidate cuts of the backbone, in the order in which it computes them.

        Returns
        -------
        list of Cut
            The candidates.

        Raises
        ------
        SplitError
            If the backbone cannot be recorded.
        """
        from ..splitting import cuts

        example = example_of(self.samples)
        return cuts(self.backbone.model, example.inputs, example.other_length)

    def recipe(self, cut: str) -> Recipe:
        """Return the recipe of the present configuration at a cut, from memory if nothing changed.

        Parameters
        ----------
        cut : str
            The module to cut after.

        Returns
        -------
        Recipe
            The recipe.

        Raises
        ------
        UnknownCutError
            If the backbone has no such module.
        SplitError
            If caching at the cut is unsound.
        StaleError
            If the settings derive from a rounded set and there is none.
        """
        known = self._known_recipe(cut)
        if known is None:
            made = make_recipe(self.split(cut), self.samples, self.settings)
            write_recipe(self.store, self.settings, cut, made)
            return self._known_recipe(cut, made) or made
        return known

    def _known_recipe(self, cut: str, made: Recipe | None = None) -> Recipe | None:
        """Return the recipe if it was just made, or is remembered; the rounded set that it derives from is looked for again."""
        if cut not in self._recipes:
            recipe = made or self._remembered(cut)
            if recipe is None:
                return None
            if self.settings.from_lossy:
                from ..extraction import lossy_recipe

                recipe = lossy_recipe(recipe, self.store)
            self._recipes[cut] = recipe
        return self._recipes[cut]

    def _remembered(self, cut: str) -> Recipe | None:
        return read_recipe(self.store, self.settings, cut, lambda: self.raw_samples.decoding)

    def _augmented(self, cut: str) -> tuple[Recipe | None, int]:
        """Return the recipe and the number of the random views, (None, 0) where there are none."""
        samples = samples_of(Samples([]), stored=self.settings)  # no data is needed to say how it is augmented
        if samples.augment is None:
            return None, 0
        return views_recipe(self.recipe(cut), samples), self.settings.views

    def extract(self, cut: str, **options: Any) -> ExtractReport:
        """Compute what is missing at one cut.

        Parameters
        ----------
        cut : str
            The module to cut after.
        **options : Any
            The options of ``extract_cuts``.

        Returns
        -------
        ExtractReport
            What was done.
        """
        return self.extract_cuts([cut], **options)[0]

    def extract_cuts(
        self,
        cuts: Sequence[str],
        *,
        workers: int | None = None,
        on_error: str = "raise",
        engine: str = "local",
        task: str | None = None,
        progress: ProgressCallback = silent,
    ) -> list[ExtractReport]:
        """Compute what is missing at several cuts, in one pass.

        If nothing is missing, torch is not even loaded.

        Parameters
        ----------
        cuts : sequence of str
            The modules to cut after.
        workers : int, optional
            The number of decoding processes, as for ``featcache.extract``.
        on_error : str, default "raise"
            What to do with a sample that cannot be read: ``"raise"`` or ``"skip"``.
        engine : str, default "local"
            Who computes, as for ``featcache.extract``.
        task : str, optional
            A part of the work, as for ``featcache.extract``.
        progress : callable, optional
            Called with a ``ProgressEvent`` as the work proceeds.

        Returns
        -------
        list of ExtractReport
            One report per cut.

        Raises
        ------
        DataError
            If the dataset cannot be used, or a sample cannot be read.
        SplitError
            If caching at a cut is unsound.
        StoreError
            If the store cannot be used, or has no room.
        UsageError
            If an option or a setting is not valid.
        """
        started_s = time.perf_counter()
        # What only a computation would notice to be wrong is refused where there is nothing to compute, too.
        load_engine(engine)
        check_compression(self.settings.codec)
        if self.settings.store_budget is not None:
            parse_size(self.settings.store_budget)
        chosen = None if task is None else str(TaskSlice.parse(task))
        snapshot = remembered_snapshot(
            self.raw_samples, self.store, skip_unreadable=on_error == "skip", progress=progress
        )
        reports = {cut: self._report_if_complete(cut, on_error) for cut in cuts}
        lacking = [cut for cut, report in reports.items() if report is None]
        if lacking:
            recorded = self._splits.get(lacking[0]) if len(lacking) == 1 else None
            network: Any = self.backbone.model if recorded is None else [recorded]
            made: dict[str, Features] = extract(
                network,
                self.samples,
                self.store,
                cut=lacking if recorded is None else None,
                device=self.settings.device,
                codec=self.settings.codec,
                store_budget=self.settings.store_budget,
                engine=engine,
                task=task,
                workers=workers,
                on_error=on_error,
                batch_size=self.settings.batch_size,
                progress=progress,
                **self.settings.options(),
            )
            for cut, features in made.items():
                if not self.settings.from_lossy:
                    write_recipe(self.store, self.settings, cut, features.recipe)
                reports[cut] = features.report
        else:
            self.store.save_snapshot(snapshot)
        write_last_cut(self.store, cuts[-1])
        if any(report is not None and report.changed for report in reports.values()):
            self.__dict__.pop("snapshot", None)  # what the data hold is looked at again
        done = [report for report in reports.values() if report is not None]
        for report in done:
            report.elapsed_s, report.task = time.perf_counter() - started_s, chosen
        return done

    def missing_tasks(self, cuts: Sequence[str], *, on_error: str = "raise") -> list[MissingTask]:
        """List the tasks that are not done, to be run by ``featcache extract --task``.

        Parameters
        ----------
        cuts : sequence of str
            The modules to cut after.
        on_error : str, default "raise"
            What to do with a sample that cannot be read: ``"raise"`` or ``"skip"``.

        Returns
        -------
        list of MissingTask
            The tasks. Empty if everything is there.
        """
        remembered_snapshot(self.raw_samples, self.store, skip_unreadable=on_error == "skip")
        if all(self._report_if_complete(cut, on_error) for cut in cuts):
            return []
        return missing_tasks(
            self.backbone.model,
            self.samples,
            self.store,
            cut=list(cuts),
            batch_size=self.settings.batch_size,
            on_error=on_error,
            **self.settings.options(),
        )

    def _report_if_complete(self, cut: str, on_error: str) -> ExtractReport | None:
        recipe = self._known_recipe(cut)
        if recipe is None:
            return None
        augmented, views = self._augmented(cut)
        return report_if_complete(
            self.raw_samples,
            self.store.set(recipe),
            retry_skipped=on_error == "raise",
            augmented=None if augmented is None else self.store.set(augmented),
            views=views,
        )

    def recompute(self, cuts: Sequence[str], rows: int) -> list[Recomputed]:
        """Compare some cached rows with a fresh forward pass.

        Parameters
        ----------
        cuts : sequence of str
            The modules to cut after.
        rows : int
            The number of rows to compare per set.

        Returns
        -------
        list of Recomputed
            One entry per cut, and another one per cut for its random views, if there are any.

        Raises
        ------
        StaleError
            If a set has no rows of these samples.
        """
        options = {
            "batch_size": self.settings.batch_size,
            "device": self.settings.device,
            **self.settings.options(),
        }
        return [each for cut in cuts for each in self.store.recompute(self.split(cut), self.samples, rows, **options)]

    def referenced(self, cuts: Sequence[str]) -> list[Recipe]:
        """Return the recipes that the configuration refers to.

        Parameters
        ----------
        cuts : sequence of str
            The cuts. If empty, all cuts that the store holds. A stored cut that the backbone does not have belongs to
            another backbone and is left out.

        Returns
        -------
        list of Recipe
            The recipes, with those of the random views.
        """
        found = []
        for cut in cuts or sorted({recipe.cut for recipe in self.store.recipes()}):
            try:
                found += [self.recipe(cut), *(each for each in self._augmented(cut)[:1] if each is not None)]
            except (UnknownNameError, SplitError, StaleError):
                if cuts:
                    raise
        return found

    def last_cut(self) -> str | None:
        """Return the cut that was extracted last into the store.

        Returns
        -------
        str or None
            The cut. None if there is none.
        """
        return read_last_cut(self.store)

    def status(self, cut: str) -> SetStatus:
        """Return how the set of a cut stands against the present configuration.

        Parameters
        ----------
        cut : str
            The cut.

        Returns
        -------
        SetStatus
            How the set stands.
        """
        return set_status(self.store, self.recipe(cut), self.snapshot, *self._augmented(cut))

    def explain(self, cut: str) -> Explanation:
        """Return in words why the set of a cut is fresh or not.

        Parameters
        ----------
        cut : str
            The cut.

        Returns
        -------
        Explanation
            The status with its reasons.
        """
        return explain(self.store, self.recipe(cut), self.snapshot)

    def features(self, cut: str) -> Features:
        """Return the cached features of all samples.

        Parameters
        ----------
        cut : str
            The cut.

        Returns
        -------
        Features
            The features.

        Raises
        ------
        StaleError
            If a row is missing.
        """
        from ..features import Features

        status = self.status(cut)
        if not status.fresh:
            there = sorted({f"{info.cut} ({info.rows} rows, {info.dtype})" for info in self.store.sets()})
            raise StaleError(
                f"the features at {cut!r} are {status.state}: {status.missing} of {status.samples} samples have none. "
                f"The store {self.settings.store} holds: {', '.join(there) or 'nothing'}. "
                f"Run `featcache extract --cut {cut}` first; `featcache explain --cut {cut}` says why."
            )
        augmented, views = self._augmented(cut)
        of_views = None if augmented is None else self.store.set(augmented)
        return Features.join(self.store.set(self.recipe(cut)), self.snapshot, None, of_views, views)

    def save_head(self, trained: TrainedHead, name: str) -> Path:
        """Write a trained head to the store.

        Parameters
        ----------
        trained : TrainedHead
            The head.
        name : str
            The name of the head in the store.

        Returns
        -------
        pathlib.Path
            The folder of the head, or of a copy if the store is remote.

        Raises
        ------
        UsageError
            If ``name`` cannot name a folder.
        HeadError
            If the folder holds something other than a head, or cannot be written.
        """
        path, storage = f"heads/{check_name(name, 'head')}", self.store.storage
        if storage.exists(f"{path}/head.json"):
            self.notes.append(f"replaces the head {name} that was there; --name keeps both")
        if isinstance(storage, LocalStorage):
            return trained.save(storage.fetch(path), asdict(self.settings))
        with tempfile.TemporaryDirectory() as temporary:
            put_folder(storage, trained.save(Path(temporary) / name, asdict(self.settings)), path, last="head.json")
        return storage.fetch(path)

    def _example(self, cuts: Sequence[str]) -> Example:
        """Return inputs of some samples that the store keeps beside the set of one of the cuts, or else of samples."""
        for cut in cuts:
            recipe = self._recipes.get(cut) or self._remembered(cut)
            found = [recipe] if recipe is not None else sets_alike(self.store, cut, self.samples, self.snapshot)
            for each in found:
                stored = stored_example(self.store.set(each))
                if stored is not None:
                    return stored
        self.snapshot  # noqa: B018  # which shows whether samples vary in length
        return example_of(self.samples)
