"""One side of `benchmark_ppo`: TRL's PPOv2Trainer, an iteration for every line on standard input.

It runs under the Python of an environment of its own, which has TRL 0.11.4 (the last with this
trainer) and not this package. It says the seconds of each iteration on standard output, and "ready"
first.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import time


def main(shape: dict) -> None:
    """Builds four random GPT-2s and trains until standard input ends.

    Args:
      shape: vocab_size, context, width, layers, heads, prompt, response, episodes, epochs,
        minibatches, iterations, fused.
    """
    import torch
    from datasets import Dataset
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        GPT2Config,
        PreTrainedTokenizerFast,
    )
    from trl import PPOv2Config, PPOv2Trainer

    said = sys.stdout
    sys.stdout = sys.stderr  # the trainer prints

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=shape["vocab_size"],
        n_positions=shape["context"],
        n_embd=shape["width"],
        n_layer=shape["layers"],
        n_head=shape["heads"],
        pad_token_id=0,
        eos_token_id=None,
        num_labels=1,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    policy, reference = (AutoModelForCausalLM.from_config(config) for _ in range(2))
    value, reward = (AutoModelForSequenceClassification.from_config(config) for _ in range(2))
    ids = torch.randint(1, shape["vocab_size"], (shape["episodes"] * 4, shape["prompt"]))
    told = _Turns(said)
    rows = Dataset.from_dict({"input_ids": ids.tolist()})

    def collate(some: list[dict]) -> dict:
        told.next()
        return {"input_ids": torch.tensor([row["input_ids"] for row in some])}

    import tokenizers

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(tokenizers.models.BPE()),
        pad_token="<pad>",
        eos_token="<eos>",
    )
    size = shape["episodes"] // shape["minibatches"]
    with tempfile.TemporaryDirectory() as folder:
        trainer = PPOv2Trainer(
            config=PPOv2Config(
                output_dir=folder,
                per_device_train_batch_size=size,
                gradient_accumulation_steps=1,
                num_mini_batches=shape["minibatches"],
                num_ppo_epochs=shape["epochs"],
                total_episodes=shape["episodes"] * (shape["iterations"] + 1),
                response_length=shape["response"],
                local_rollout_forward_batch_size=shape["episodes"],
                temperature=1.0,
                num_sample_generations=0,
                optim="adamw_torch_fused" if shape["fused"] else "adamw_torch",
                save_strategy="no",
                report_to=[],
                logging_steps=10**6,
                use_cpu=True,
                dataloader_num_workers=0,
                missing_eos_penalty=None,
                stop_token_id=None,
            ),
            tokenizer=tokenizer,
            policy=policy,
            ref_policy=reference,
            reward_model=reward,
            value_model=value,
            train_dataset=rows,
            data_collator=collate,
        )
        trainer.log = lambda metrics: None
        with contextlib.suppress(EOFError):  # the other side has seen enough
            trainer.train()


class _Turns:
    """Waits for a line before every iteration, and says how long the last one took."""

    def __init__(self, said):
        self._said, self._began = said, None

    def next(self) -> None:
        """An iteration begins, and the one before has ended.

        Raises:
          EOFError: if there is no more.
        """
        word = "ready" if self._began is None else f"{time.perf_counter() - self._began:.6f}"
        print(word, file=self._said, flush=True)
        if not sys.stdin.readline():
            raise EOFError
        self._began = time.perf_counter()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
