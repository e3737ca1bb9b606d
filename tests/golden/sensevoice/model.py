"""The tiny SenseVoice of the goldens: its vocabulary, its files for funasr, its weights. Needs funasr; see make.py."""

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import funasr
import kaldi_native_fbank
import numpy as np
import sentencepiece
import torch
import yaml
from numpy.typing import NDArray
from signals import RATE_HZ, SOUNDS, as_float, kinds, signal

LOGGER = logging.getLogger("golden")
SEED = 5
VOCABULARY = 220
WIDTH = 12
LANGUAGES = {"auto": 0, "zh": 3, "en": 4, "yue": 7, "ja": 11, "ko": 12}
STYLES = {True: 14, False: 15}
HEARD = {0: "ko", 3: "zh", 4: "en", 7: "yue", 11: "ja", 12: "ko"}
"""Which language tag the model gives for which language id of the prompt."""
TAGS = (
    *(f"<|{tag}|>" for tag in ("zh", "en", "yue", "ja", "ko", "nospeech", "NEUTRAL", "HAPPY", "SAD", "EMO_UNKNOWN")),
    *(f"<|{tag}|>" for tag in ("Speech", "BGM", "Laughter", "Event_UNK", "withitn", "woitn")),
)
STEPS = 1_800
BLANK_EVERY = 4

Features = NDArray[np.float32]


def corpus() -> Iterator[str]:
    """Yield lines of invented words in the scripts of the five languages."""
    onsets, vowels, codas = "bdgklmnprstvz", "aeiou", ("", "n", "r", "s", "l")
    for number in range(600):
        words = []
        for place in range(4):
            x = number * 7 + place * 31
            syllables = [
                onsets[(x * 5 + k * 3) % 13] + vowels[(x + k * 2) % 5] + codas[(x // 5 + k) % 5]
                for k in range(1 + x % 3)
            ]
            words.append("".join(syllables))
        yield " ".join(words)
        yield "".join(chr(0x4E00 + (number * 3 + place * 11) % 40) for place in range(6))
        yield "".join(chr(0x3042 + (number * 5 + place * 7) % 20) for place in range(5))
        yield "".join(chr(0xAC00 + 28 * ((number + place * 13) % 20)) for place in range(4))
        yield f"{number % 10} {number // 10 % 10}, {'!?.'[number % 3]}"


def write_parts(folder: Path) -> None:
    """Write what funasr needs besides weights, am.mvn and tokens.txt among it."""
    model = folder / "chn_jpn_yue_eng_ko_spectok.bpe.model"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=corpus(),
        model_prefix=str(model.with_suffix("")),
        model_type="bpe",
        vocab_size=VOCABULARY,
        character_coverage=1.0,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        user_defined_symbols=list(TAGS),
        minloglevel=2,
    )
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(model))
    lines = [f"{pieces.id_to_piece(number)} {number}\n" for number in range(VOCABULARY)]
    (folder / "tokens.txt").write_text("".join(lines), encoding="utf-8")
    shift, scale = cmvn()
    rows = {"AddShift": shift, "Rescale": scale}
    blocks = [f"<{name}> 560 560\n<LearnRateCoef> 0 [ {numbers(row)} ]\n" for name, row in rows.items()]
    (folder / "am.mvn").write_text("<Nnet>\n<Splice> 560 560\n[ 0 ]\n" + "".join(blocks) + "</Nnet>\n")
    encoder_conf = {
        "output_size": WIDTH,
        "attention_heads": 4,
        "linear_units": 2 * WIDTH,
        "num_blocks": 1,
        "tp_blocks": 1,
        "dropout_rate": 0.0,
        "positional_dropout_rate": 0.0,
        "attention_dropout_rate": 0.0,
        "input_layer": "pe",
        "normalize_before": True,
        "kernel_size": 11,
        "sanm_shfit": 0,
        "selfattention_layer_type": "sanm",
    }
    frontend_conf = {"fs": RATE_HZ, "window": "hamming", "n_mels": 80, "frame_length": 25, "frame_shift": 10}
    config = {
        "model": "SenseVoiceSmall",
        "model_conf": {"length_normalized_loss": True, "sos": 1, "eos": 2, "ignore_id": -1},
        "encoder": "SenseVoiceEncoderSmall",
        "encoder_conf": encoder_conf,
        "tokenizer": "SentencepiecesTokenizer",
        "tokenizer_conf": {"bpemodel": None, "unk_symbol": "<unk>", "split_with_space": True},
        "frontend": "WavFrontend",
        # funasr's default is to add noise.
        "frontend_conf": frontend_conf | {"lfr_m": 7, "lfr_n": 6, "dither": 0.0, "cmvn_file": None},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    parts = {
        "init_param": "model.pt",
        "config": "config.yaml",
        "tokenizer_conf": {"bpemodel": model.name},
        "frontend_conf": {"cmvn_file": "am.mvn"},
    }
    configuration = {"framework": "pytorch", "model": {"type": "funasr"}, "file_path_metas": parts}
    (folder / "configuration.json").write_text(json.dumps(configuration))


def cmvn() -> tuple[Features, Features]:
    """Return shift and scale, float32 [560], with as many digits as the files of published models have."""
    index = np.arange(560)
    shift = -9.5 - 2.5 * np.sin(2.0 * np.pi * index / 80.0) - index / 1000.0
    scale = 0.21 + 0.04 * np.cos(2.0 * np.pi * index / 560.0)
    return tuple(np.array([f"{value:.7g}" for value in row], np.float32) for row in (shift, scale))  # type: ignore


def numbers(row: Features) -> str:
    return " ".join(f"{value:.7g}" for value in row)


def create(folder: Path) -> funasr.AutoModel:
    """Return the model, trained from random weights; writes model.pt, which funasr loads."""
    options = {"model": str(folder), "disable_update": True, "disable_pbar": True, "device": "cpu"}
    (folder / "model.pt").unlink(missing_ok=True)
    torch.manual_seed(SEED)
    torch.save({}, folder / "model.pt")
    auto = funasr.AutoModel(**options)
    weights = auto.model.state_dict()
    generator = torch.Generator().manual_seed(SEED)
    for name, value in weights.items():
        if value.dim() > 1:
            fan_in = value[0].numel()
            spread = 0.5 if name == "embed.weight" else 1.2 / fan_in**0.5
            value.copy_(torch.randn(value.shape, generator=generator) * spread)
        elif "norm" not in name:
            value.copy_(torch.randn(value.shape, generator=generator) * 0.1)
    auto.model.load_state_dict(weights)
    fit(auto.model, [piece.split(" ")[0] for piece in (folder / "tokens.txt").read_text().splitlines()])
    torch.save(auto.model.state_dict(), folder / "model.pt")
    return funasr.AutoModel(**options)


def fit(model: torch.nn.Module, pieces: Sequence[str]) -> None:
    """Train a moment: four tags first, then for each frame the token that stands for its sound, or the blank."""
    tags = {piece.strip("<|>"): number for number, piece in enumerate(pieces) if piece.startswith("<")}
    words = [number for number, piece in enumerate(pieces) if not piece.startswith("<")]
    random = np.random.default_rng(SEED)
    tokens = random.permutation(words)[:SOUNDS]
    tokens[::BLANK_EVERY] = 0
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, STEPS)
    for step in range(STEPS):
        samples, seed = 8_000 + step * 7_919 % 152_000, 100_000 + step
        frames = fbank(as_float(signal(samples, seed)))
        x = normalised(lfr(frames + random.normal(0.0, 0.02, frames.shape).astype(np.float32)))
        language, itn = list(HEARD)[step % 6], step // 6 % 2 == 0
        style = tags["withitn" if itn else "woitn"]
        heard = tokens[kinds(len(x) + 1, seed)[: len(x)]]
        wanted = torch.tensor([tags[HEARD[language]], tags["NEUTRAL"], tags["Speech"], style, *heard])
        scores = model.ctc.ctc_lo(hidden(model, x, language, itn))
        losses = torch.nn.functional.cross_entropy(scores, wanted, reduction="none")
        loss = losses[:4].mean() + losses[4:].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 300 == 299:
            right = (scores.argmax(dim=1) == wanted).float().mean()
            LOGGER.info("step %d: loss %.3f, %.0f %% of the frames", step + 1, loss.item(), 100 * right.item())
    with torch.no_grad():
        # The references disagree about what to do with the marks of beginning and end.
        model.ctc.ctc_lo.bias[1:3] = -100.0


def fbank(samples: Features) -> Features:
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither = 0.0
    options.frame_opts.window_type = "hamming"
    options.frame_opts.snip_edges = True
    options.mel_opts.num_bins = 80
    options.energy_floor = 0.0
    computer = kaldi_native_fbank.OnlineFbank(options)
    computer.accept_waveform(RATE_HZ, (samples * 32768.0).tolist())
    return np.stack([computer.get_frame(index) for index in range(computer.num_frames_ready)])


def lfr(frames: Features) -> Features:
    count = -(-len(frames) // 6)
    index = np.clip(np.arange(count)[:, None] * 6 + np.arange(-3, 4), 0, len(frames) - 1)
    return frames[index].reshape(count, 560)


def normalised(x: Features) -> Features:
    shift, scale = cmvn()
    return (x + shift) * scale


def hidden(model: torch.nn.Module, x: Features, language: int, itn: bool) -> torch.Tensor:
    """Return what goes into the CTC layer, [T + 4, WIDTH], for normalised rows [T, 560], all of them valid."""
    prompt = model.embed(torch.tensor([[language, 1, 2, STYLES[itn]]]))
    speech = torch.cat([prompt, torch.from_numpy(x)[None]], dim=1)
    encoded, _ = model.encoder(speech, torch.tensor([speech.shape[1]]))
    return encoded[0]
