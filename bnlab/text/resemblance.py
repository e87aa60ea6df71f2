"""Guesses which known word was meant by another spelling, a synonym or a typing error."""

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

__all__ = ["closest", "did_you_mean", "plain"]

_SYNONYMS = {
    # settings
    "lr": "learning_rate learningrate eta stepsize initial_lr base_lr max_lr alpha",
    "max_epochs": "epochs epoch num_epochs n_epochs nb_epochs",
    "max_steps": "steps iterations iters num_steps max_iter",
    "batch_size": "bs batch batchsize minibatch minibatch_size train_batch_size",
    "hidden": "hidden_sizes hidden_layers hidden_dims layers layer_sizes widths sizes",
    "num_layers": "layers depth n_layers hidden_layers",
    "num_units": "units width neurons hidden_size hidden_dim hidden_units n_hidden",
    "activation": "act nonlinearity act_fn activation_fn",
    "weight_decay": "wd l2 decay weightdecay lambda",
    "beta1": "betas beta b1 beta_1",
    "beta2": "betas b2 beta_2",
    "eps": "epsilon",
    "placement": "place position where order",
    "bias": "use_bias",
    "accelerator": "device cuda gpu cpu hardware",
    "devices": "gpus num_gpus",
    "precision": "amp fp16 bf16 half dtype",
    "gradient_clip_val": "clip grad_clip gradient_clip clip_norm max_grad_norm clipnorm",
    "normalize": "standardize normalise scale_inputs",
    "root": "data_dir datadir data_root data_path download_dir",
    "val_fraction": "validation_split val_split val_size",
    "test_fraction": "test_split test_size",
    "num_threads": "threads nthreads",
    "seed": "random_seed random_state rng manual_seed",
    "objective": "metric monitor criterion",
    "step_size": "step_every",
    "num_trials": "trials n_trials budget max_trials",
    "seeds": "num_seeds n_seeds repeats repetitions",
    "resume": "continue restart",
    "dir": "output output_dir outdir out logdir log_dir folder save_dir",
    "n_jobs": "jobs workers num_workers processes",
    # groups
    "data": "dataset datamodule",
    "model": "net network arch architecture",
    "norm": "normalization normalisation bn batchnorm batch_norm norm_layer",
    "optimizer": "opt optim optimiser solver",
    "scheduler": "lr_scheduler schedule lr_schedule learning_rate_decay sched",
    "logger": "log logging tracker",
    "trainer": "train training fit",
    "search": "sampler sweep sweeper tuner hparams hpo",
    "launcher": "launch parallel",
    # choices
    "batch": "bn batchnorm batch_norm batchnorm1d",
    "torch": "native pytorch",
    "ghost": "gbn ghostbatchnorm",
    "renorm": "batchrenorm brn",
    "none": "off no false null nothing identity without",
    "sgd": "gd gradient_descent",
    "nesterov": "nag",
    "adam": "amsgrad",
    "constant": "none off no false null fixed",
    "exponential": "exp exponentiallr",
    "inverse_time": "inverse 1/t inversetimedecay inv",
    "step": "steplr staircase multistep",
    "cosine": "cos cosineannealing cosineannealinglr",
    "csv": "none off false null",
    "tpe": "bayes bayesian bayesopt optuna bo",
    "quasi_random": "sobol halton qmc lhs",
    "coarse_to_fine": "coarse ctf",
    "digits": "sklearn toy",
    "learning_rate": "lr",
    "joblib": "processes parallel multiprocessing loky",
    "basic": "serial local",
    # values
    "classification": "classify classes class",
    "regression": "regress reg",
    "32-true": "float32 fp32 single",
    "64-true": "float64 fp64 double",
    "16-mixed": "fp16 half amp 16bit",
    "bf16-mixed": "bfloat16",
    "silu": "swish",
    "identity": "linear none",
    "leaky_relu": "lrelu leaky",
    "val_accuracy": "accuracy acc val_acc",
    "val_loss": "loss",
    "full": "all",
    "before": "pre",
    "after": "post",
    "true": "yes on 1 y",
    "false": "no off 0 n",
    "cuda": "gpu",
}


def plain(word: str) -> str:
    """Keep letters and digits, in lower case."""
    return re.sub(r"[^a-z0-9]", "", word.lower())


_SYNONYMS_OF = {name: frozenset(map(plain, words.split())) for name, words in _SYNONYMS.items()}


def closest(word: str, among: Iterable[str], *, slips: bool = True) -> list[str]:
    """Return those of `among` that `word` probably means, the likeliest first, by the first rule that finds any.

    The rules, in order: equal but for case and separators; a synonym; one begins or ends with the other; with `slips`,
    a few letters differ.
    """
    names = dict.fromkeys(among)
    wanted = plain(word)
    if not wanted:
        return []
    found = [name for name in names if plain(name) == wanted]
    found = found or [name for name in names if wanted in _SYNONYMS_OF.get(name, ())]
    if found or len(wanted) < 3:
        return found
    found = [name for name in names if _is_a_part(wanted, plain(name))]
    if found or not slips:
        return found
    spelled = {plain(name): name for name in names}
    synonyms = {synonym: name for name in names for synonym in _SYNONYMS_OF.get(name, ()) if len(synonym) > 4}
    near = get_close_matches(wanted, [*spelled, *synonyms], n=3, cutoff=0.78)
    return list(dict.fromkeys(spelled.get(name) or synonyms[name] for name in near))


def _is_a_part(word: str, name: str) -> bool:
    """Whether one begins or ends with the other; a name within the word must make up most of it."""
    short, long = sorted((word, name), key=len)
    is_most = short == word or len(short) > 0.6 * len(long)
    return len(short) > 3 and is_most and (long.startswith(short) or long.endswith(short))


def did_you_mean(likely: Sequence[str]) -> str:
    """Ask "did you mean ...?", or return nothing where no line is likely."""
    if not likely:
        return ""
    *others, last = likely
    return f"did you mean {', '.join(others)} or {last}?" if others else f"did you mean {last}?"
