"""Labels: the SFT model's own answers, ranked, for the reward model to learn from.

    python -m experiments.label --init-from runs/sft/default
    python -m experiments.label --init-from runs/sft/default --label.agreement 0.73
    python -m experiments.label --init-from runs/sft/default --label.labeler people
    python -m experiments.reward --init-from runs/sft/default --labels-from runs/label/default

InstructGPT's reward model learned from rankings of such answers (Ouyang et al. 2022, 3.4). They are
ranked by what is known to be true, or by people: the command then writes `label.html`, a page that
needs nothing but a browser, and reads the file that it saves. The run folder holds the answers
(`answers.jsonl`), the `comparisons.jsonl` and `held_out.jsonl`, and `labels.json` in numbers.

Hardware and time (tiny): under a minute on 2 CPU cores.
Expected (tiny, microworld): two labelers agree on the share that `--label.agreement` says.
"""

import dataclasses
import json
from pathlib import Path

from jax.sharding import Mesh

from gpt_jax import files, keys
from gpt_jax.errors import UserError
from gpt_jax.generate.sampling import Sampling
from gpt_jax.labels.answers import draw_answers, read_answers
from gpt_jax.labels.comparisons import Ranks, agreement, comparisons_of, count
from gpt_jax.labels.labeler import PEOPLE, Label, check_labeler, rank, ranked_by
from gpt_jax.labels.people import RANKS, write_page
from gpt_jax.labels.prompts import Asked, choose
from gpt_jax.metrics import MetricWriter, read_metrics
from gpt_jax.parallel import distributed
from gpt_jax.parallel.mesh import make_mesh
from gpt_jax.ranges import Positive
from gpt_jax.report import write_report
from gpt_jax.report.stages import label_verdict
from gpt_jax.train import command, run
from gpt_jax.train.checkpoint import ModelFiles
from gpt_jax.train.inputs import label_files, record_inputs
from gpt_jax.train.launch import save_data_file
from gpt_jax.train.origin import Started, start_of
from gpt_jax.train.record import record_config
from gpt_jax.train.seeds_run import in_turn
from gpt_jax.train.served import open_run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Started):
    run_dir: str = "runs/label/default"
    init_from: str = "runs/sft/default"
    round: Positive = 1
    """Of several labelings the number of this one: each draws prompts and answers of its own."""
    label: Label


def draw_seed(config: Config) -> int:
    """Of the prompts, the answers to them, and the noise of their labels."""
    return keys.derive_seed(config.seed, config.round, "label")


def prompts_of(config: Config, start: ModelFiles) -> Asked:
    """What is asked; all that can be known of a labeling before it begins is looked at.

    Raises:
      UserError: if no prompt fits, or the labeler cannot rank.
    """
    recipe, context = config.label, start.model.context_length
    room = context - recipe.max_new_tokens
    if room < 1:
        raise UserError(
            f"--label.max-new-tokens {recipe.max_new_tokens} leaves no room for a prompt in the "
            f"model's context of {context} tokens; lower it"
        )
    check_labeler(recipe, config.data)
    counts = {"train": recipe.prompts, "test": recipe.held_out}
    return choose(config.data, counts, start.tokenizer, room, draw_seed(config))


def is_finished(config: Config) -> bool:
    """Whether the answers are ranked, by this very labeler (and says so)."""
    folder = Path(config.run_dir)
    check_labeler(config.label, config.data)
    if not distributed.agree((folder / "labels.json").is_file()):
        return False
    numbers = files.read_json(folder / "labels.json", "remove it and run again")
    same = numbers.get("ranked_by") == ranked_by(config.label, folder)
    return same and run.is_finished("label", config)


def make(config: Config, start: ModelFiles, mesh: Mesh) -> bool:
    """Draws answers, has them ranked, and writes comparisons; whether it came to that.

    Raises:
      UserError: if there is nothing to learn or to measure.
    """
    folder, asked = Path(config.run_dir), prompts_of(config, start)
    record_config(folder, "label", config)
    record_inputs(folder, config)
    distributed.on_main(lambda: (folder / run.FINISHED).unlink(missing_ok=True))
    save_data_file(folder, "label", config.data, ("prompts",), asked.left_out)
    writer = MetricWriter(
        folder, config.tensorboard, config.wandb, silent=not distributed.is_main()
    )
    with writer as show:
        if len(read_answers(folder, asked.rows)) < len(asked.rows):
            limits = {"context": config.context, "dtype": config.dtype}
            model = open_run(config.init_from, mesh=mesh, **limits)
            sampling = Sampling(
                max_new_tokens=config.label.max_new_tokens,
                n=config.label.answers,
                seed=draw_seed(config),
            )
            draw_answers(folder, asked.rows, model.complete, sampling, show)
        rows = read_answers(folder, asked.rows)
        if config.label.labeler == PEOPLE:
            distributed.on_main(lambda: write_page(folder, rows, config.seed))
        ranks = rank(config.label, folder, config.data, rows, draw_seed(config))
        if not ranks:
            distributed.say(
                f"label: open {folder}/label.html in a browser, rank, and save the ranks as "
                f"{folder}/{RANKS}; then the same command goes on"
            )
            return False
        distributed.on_main(lambda: write(config, rows, ranks, show))
    return True


def write(config: Config, rows: list[dict], ranks: list[Ranks], show: MetricWriter) -> None:
    """Writes the comparisons, says what there is to learn from, and ends the stage."""
    folder, (first, *others) = Path(config.run_dir), ranks
    people = config.label.labeler != "gold"
    used = {**others[0], **first} if others and people else first
    found = {split: comparisons_of(rows, used, split) for split in ("train", "test")}
    for split, some in found.items():
        if not some:
            raise UserError(
                f"{folder}: of the {split} prompts none has an answer that is ranked above "
                "another; rank more, or give more --label.prompts and --label.held-out"
            )
    for path, some in zip(label_files(folder), found.values(), strict=True):
        files.write_text(path, "".join(json.dumps(row) + "\n" for row in some))
    agreed = agreement(first, others[0]) if others else None
    seconds = round(sum(row.get("seconds", 0.0) for row in read_metrics(folder)), 1)
    numbers = count(rows, used) | {
        "train": len(found["train"]),
        "held_out": len(found["test"]),
        "seconds": seconds,
    }
    show.truncate(-1)
    show.write(len(rows), numbers | (agreed or {}))
    facts = {"ranked_by": ranked_by(config.label, folder), **numbers, "agreement": agreed}
    files.write_text(folder / "labels.json", json.dumps(facts, indent=2) + "\n")
    print(f"label: {label_verdict(read_metrics(folder))}", flush=True)
    write_report(folder)
    files.write_text(folder / run.FINISHED, "")


def main(config: Config) -> bool:
    """Runs the stage, of many seeds each in turn; whether the answers are ranked."""
    if config.seeds == 1:
        return is_finished(config) or make(config, start_of(config, None), make_mesh(config.mesh))
    ranked = all(in_turn("label", config, main))
    if ranked:
        run.finish(Path(config.run_dir))
    return ranked


def smoke() -> Config:
    # Its model knows nothing yet: all that tells answers apart is a word more or fewer.
    return Config(preset="smoke", label=Label(prompts=96, held_out=32, noticeable=0.002))


def tiny() -> Config:
    return Config(preset="tiny", label=Label())


def colab() -> Config:
    return Config(preset="colab", label=Label(max_new_tokens=64))


presets = {"smoke": smoke, "tiny": tiny, "colab": colab}

if __name__ == "__main__":
    command.run(main, presets, __doc__)
