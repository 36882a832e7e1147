"""The command line, run as people run it: arguments in, exit code, stdout, stderr and files out."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zsem.cli import COMMANDS, main
from zsem.data.builtin import avatars

TINY = [
    *("--preset", "nano", "--size", "16", "--iterations", "6", "--training.batch-size", "4"),
    *("--model.z-dim", "8", "--model.unet.channels", "32", "--model.unet.channel-mult", "1"),
    *("--model.encoder.channels", "32", "--model.encoder.channel-mult", "1", "--model.encoder.pool", "1"),
]


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return str(avatars(tmp_path_factory.mktemp("faces") / "set", number=10, size=16, workers=1))


@pytest.fixture(scope="module")
def run(tmp_path_factory, faces):
    """A run folder, trained through the command line for a few iterations."""
    folder = tmp_path_factory.mktemp("run") / "model"
    assert main(["train", faces, "--out", str(folder), *TINY]) == 0
    return str(folder)


def pixels(path: str | Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def same_images(folder: Path, originals: str, number: int) -> None:
    written = sorted(path.relative_to(folder) for path in folder.rglob("*.png"))
    assert len(written) == number
    for path in written:
        assert np.array_equal(pixels(folder / path), pixels(Path(originals) / path)), path


class TestTopLevel:
    def test_help_lists_every_command_and_imports_next_to_nothing(self):
        program = (
            "import sys, zsem.cli; code = zsem.cli.main(['--help']);"
            "print(code, sorted({'torch', 'tyro', 'numpy', 'rich'} & set(sys.modules)))"
        )
        seconds = []
        for _ in range(3):
            started = time.perf_counter()
            done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
            seconds.append(time.perf_counter() - started)
        *text, last = done.stdout.splitlines()
        assert last == "0 []"
        assert all(any(f"zsem {name} " in line for line in text) for name in COMMANDS)
        assert min(seconds) < 0.5

    def test_no_arguments_and_a_family_alone_show_help(self, zsem):
        assert zsem()[:2] == zsem("--help")[:2]
        code, out, _ = zsem("data")
        assert code == 0
        assert "zsem data avatars" in out
        assert "zsem train" not in out

    def test_version(self, zsem):
        code, out, _ = zsem("--version")
        assert code == 0
        assert out.startswith("zsem 0.")

    @pytest.mark.parametrize("name", COMMANDS)
    def test_every_command_explains_itself(self, zsem, name):
        code, out, err = zsem(*name.split(), "--help")
        assert (code, err) == (0, "")
        assert f"usage: zsem {name}" in out
        assert "--json" in out

    def test_help_of_train_shows_the_settings_of_the_preset(self, zsem):
        batch = "--training.learning-rate FLOAT"
        for preset, rate in (("paper64", "0.0001"), ("nano", "0.001")):
            _, out, _ = zsem("train", "--preset", preset, "--help")
            assert f"(default: {rate})" in out[out.index(batch) :].split("--training.betas")[0]

    def test_the_console_script_keeps_the_exit_code(self):
        script = Path(sys.executable).with_name("zsem")
        done = subprocess.run([script, "frobnicate"], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert done.stdout == ""


class TestMistakes:
    """One line on stderr, nothing on stdout, exit code 2."""

    @pytest.mark.parametrize(
        ("args", "sentence"),
        [
            (["trian"], "there is no command 'trian'; did you mean `zsem train`?"),
            (["data", "avatar"], "there is no command 'data avatar'; did you mean `zsem data avatars`?"),
            (["frobnicate"], "`zsem --help` lists the commands"),
            (["encode"], "these are missing: RUN IMAGES --out FILE"),
            (["encode", "a", "b", "--out", "c", "--stps", "3"], "--stps, 3; did you mean --steps?"),
            (["encode", "a", "b", "--out", "c", "--codec", "magic"], "'magic'"),
            (["encode", "a", "b", "--out", "c", "--steps", "many"], "--steps"),
            (["encode", "a", "b", "--out"], "'--out'"),
            (
                ["train", "x", "--out", "y", "--preset", "giant"],
                "there is no preset 'giant' for --model autoencoder; choose one of nano,",
            ),
            (["train", "x", "--out", "y", "--minutes", "1", "--iterations", "1"], "not in both"),
            (["train", "x", "--out", "y", "--minutes", "-1"], "--minutes must be above 0, not -1"),
            (["train", "x", "--out", "y", "--resume"], "--minutes or --iterations"),
            (["decode", "x", "y", "--out", "z", "--limit", "0"], "--limit must be at least 1, not 0"),
            (["data", "info", "nowhere"], "nowhere does not exist"),
            (["data", "digits", "--out", "x", "--size", "2"], "at least 8 pixels"),
        ],
    )
    def test_arguments(self, zsem, args, sentence, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        code, out, err = zsem(*args)
        assert code == 2
        assert out == ""
        assert err.startswith("zsem: ")
        assert err.count("\n") == 1
        assert sentence in err
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
    def test_whatever_the_terminal_can_draw(self, encoding):
        program = (
            "from zsem.cli import main; main(['encode', 'a', '--out', 'x']);"
            "main(['encode', 'a', 'b', '--out', 'c', '--stps', '3'])"
        )
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONIOENCODING": encoding},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr.splitlines() == [
            "zsem: these are missing: IMAGES (`zsem encode --help` explains)",
            "zsem: Unrecognized options: --stps, 3; did you mean --steps? (`zsem encode --help` explains)",
        ]

    def test_run_without_a_model(self, zsem, tmp_path, faces):
        code, out, err = zsem("reconstruct", tmp_path, faces, "--out", tmp_path / "out")
        assert (code, out) == (2, "")
        assert "config.json" in err
        assert err.count("\n") == 1

    def test_images_that_are_not_there(self, zsem, tmp_path, run):
        (tmp_path / "empty").mkdir()
        code, _, err = zsem("encode", run, tmp_path / "empty", "--out", tmp_path / "codes.parquet")
        assert code == 2
        assert "holds no images" in err

    def test_a_split_that_is_not_there(self, zsem, tmp_path, run, faces):
        code, _, err = zsem("reconstruct", run, faces, "--split", "test", "--out", tmp_path)
        assert code == 2
        assert "no images in the split 'test'" in err

    def test_steps_beyond_the_schedule(self, zsem, tmp_path, run, faces):
        code, _, err = zsem("encode", run, faces, "--noise", "--steps", "5000", "--out", tmp_path / "codes.parquet")
        assert code == 2
        assert "between 1 and 998" in err

    def test_a_file_in_the_way(self, zsem, tmp_path, run, faces):
        (tmp_path / "out").write_text("something else")
        code, _, err = zsem("vary", run, faces, "--out", tmp_path / "out", "--limit", "1")
        assert code == 2
        assert str(tmp_path / "out") in err
        assert err.count("\n") == 1

    def test_a_broken_image_is_named_and_the_others_go_through(self, zsem, tmp_path, run):
        for name in ("a.png", "b.png"):
            Image.new("RGB", (16, 16), "teal").save(tmp_path / name)
        (tmp_path / "torn.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
        code, out, err = zsem("encode", run, tmp_path, "--out", tmp_path / "codes.parquet", "--json")
        assert code == 0
        assert json.loads(out)["n"] == 2
        assert "torn.png" in err
        assert err.count("\n") == 1

    def test_a_defect_is_one_line_and_debug_shows_the_traceback(self, zsem, monkeypatch, tmp_path):
        def broken(*_: object, **__: object) -> None:
            raise RuntimeError("two\nlines")

        monkeypatch.setattr("zsem.data.builtin.digits", broken)
        code, out, err = zsem("data", "digits", "--out", tmp_path)
        assert (code, out) == (1, "")
        assert err == "zsem: unexpected RuntimeError: two lines (a defect of zsem; --debug shows where)\n"
        code, _, err = zsem("--debug", "data", "digits", "--out", tmp_path)
        assert code == 1
        assert "Traceback" in err

    def test_debug_shows_where_a_mistake_was_found(self, zsem):
        code, _, err = zsem("data", "info", "nowhere", "--debug")
        assert code == 2
        assert "Traceback" in err
        assert err.splitlines()[-1].startswith("zsem: nowhere does not exist")

    def test_ctrl_c(self, zsem, monkeypatch, tmp_path):
        def interrupted(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("zsem.data.builtin.digits", interrupted)
        code, _, err = zsem("data", "digits", "--out", tmp_path)
        assert (code, err) == (130, "zsem: stopped\n")

    def test_a_reader_that_stops_reading(self, faces):
        program = "import sys; from zsem.cli import main; sys.exit(main(sys.argv[1:]))"
        shell = f'"{sys.executable}" -c "{program}" data info "{faces}" | true'
        done = subprocess.run(shell, shell=True, capture_output=True, text=True, check=False)
        assert done.stderr == ""


class TestTrain:
    def test_settings_reach_the_model(self, run, zsem):
        code, out, _ = zsem("info", run, "--json")
        about = json.loads(out)
        assert code == 0
        assert about["config"]["image_size"] == 16
        assert about["config"]["z_dim"] == about["z"]["dim"] == 8
        assert about["config"]["unet"]["channel_mult"] == [1]
        assert about["history"]["iterations"] == 6
        assert about["history"]["images"] == 24
        assert about["parameters"]["unet"] > about["parameters"]["encoder"] > 0
        assert "model.safetensors" in about["files"]

    def test_json_is_alone_on_stdout(self, zsem, faces, tmp_path):
        code, out, err = zsem("train", faces, "--out", tmp_path / "run", "--json", *TINY)
        assert code == 0
        assert json.loads(out)["iterations"] == 6
        assert "Traceback" not in err

    def test_a_run_is_not_overwritten_and_resume_goes_on(self, zsem, faces, tmp_path):
        out = tmp_path / "run"
        assert zsem("train", faces, "--out", out, *TINY)[0] == 0
        code, _, err = zsem("train", faces, "--out", out, *TINY)
        assert code == 2
        assert "--resume" in err
        code, text, _ = zsem("train", faces, "--out", out, "--resume", "--iterations", "8", "--json")
        assert code == 0
        assert json.loads(text)["iterations"] == 8


class TestReconstruct:
    KEYS = ("identical", "mse", "psnr", "ssim", "nfe_encode", "nfe_decode", "seconds", "n", "codec", "steps")

    @pytest.mark.parametrize("options", [(), ("--through-file",), ("--through-file", "--dtype", "float16")])
    def test_every_pixel_comes_back(self, zsem, run, faces, tmp_path, options):
        code, out, err = zsem("reconstruct", run, faces, "--out", tmp_path, "--limit", "3", "--json", *options)
        figures = json.loads(out)
        assert (code, err) == (0, "")
        assert set(self.KEYS) <= set(figures)
        assert (figures["n"], figures["nfe_encode"], figures["nfe_decode"]) == (3, 20, 19)
        assert figures["identical"] == 1
        assert figures["mse"] <= (1e-8 if "float16" in options else 1e-10)
        assert json.loads((tmp_path / "reconstruction.json").read_text()) == figures
        same_images(tmp_path / "decoded", faces, 3)
        assert pixels(tmp_path / "reconstruction.png").shape[1] > 3 * 64

    def test_val_is_test_where_there_is_no_val(self, run, zsem, image_folder, tmp_path):
        for number, path in enumerate(sorted(image_folder.glob("*.png"))[:6]):
            folder = tmp_path / "data" / ("test" if number < 2 else "train")
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder)
        out = tmp_path / "out"
        code, found, _ = zsem("reconstruct", run, tmp_path / "data", "--split", "val", "--out", out, "--json")
        assert (code, json.loads(found)["n"]) == (0, 2)

    def test_compare_adds_ddim_and_z_alone(self, zsem, run, faces, tmp_path):
        args = ("reconstruct", run, faces, "--out", tmp_path, "--split", "val", "--compare", "--steps", "5")
        code, out, _ = zsem(*args, "--json")
        figures = json.loads(out)
        assert code == 0
        assert [(row["codec"], row["nfe_encode"], row["nfe_decode"]) for row in figures["rows"]] == [
            ("exact", 6, 5),
            ("ddim", 100, 100),
            ("z alone", 0, 19),
        ]
        errors = [row["mse"] for row in figures["rows"]]
        assert errors == sorted(errors)
        code, out, _ = zsem(*args)
        assert code == 0
        assert "identical" in out
        assert "100 + 100" in out
        assert "…" not in out

    def test_codecs(self, zsem, run, faces, tmp_path):
        for codec, identical in (("ddim", False), ("offsets", True)):
            _, out, _ = zsem("reconstruct", run, faces, "--out", tmp_path, "--limit", "2", "--codec", codec, "--json")
            figures = json.loads(out)
            assert figures["codec"] == codec
            assert (figures["identical"] == 1) == identical


class TestCodes:
    def test_encode_and_decode_give_the_images_back(self, zsem, run, faces, tmp_path):
        file = tmp_path / "codes" / "c.parquet"
        code, out, _ = zsem("encode", run, faces, "--noise", "--dtype", "float16", "--out", file, "--json")
        assert code == 0
        assert json.loads(out)["n"] == 10
        code, _, _ = zsem("decode", run, file, "--out", tmp_path / "decoded")
        assert code == 0
        same_images(tmp_path / "decoded", faces, 10)

    def test_codes_without_noise_decode_by_seed(self, zsem, run, faces, tmp_path, monkeypatch):
        file = tmp_path / "z.parquet"
        assert zsem("encode", run, faces, "--out", file, "--limit", "4")[0] == 0
        for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
            if folder == "b":
                # The noise must not depend on how the decoding is cut into parts
                monkeypatch.setattr("zsem.cli.codes.CHUNK", 3)
            assert zsem("decode", run, file, "--out", tmp_path / folder, "--seed", seed)[0] == 0
        names = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.png")]
        assert len(names) == 4
        for name in names:
            a, b, c = (pixels(tmp_path / folder / name).astype(int) for folder in "abc")
            assert abs(a - b).max() <= 1
            assert not np.array_equal(a, c)

    def test_vary(self, zsem, run, faces, tmp_path):
        args = ("--number", "2", "--limit", "3", "--json")
        code, out, _ = zsem("vary", run, faces, "--out", tmp_path, *args)
        assert code == 0
        assert json.loads(out)["n"] == 3
        variations = sorted(path for path in tmp_path.rglob("*-[12].png"))
        assert len(variations) == 6
        assert not np.array_equal(pixels(variations[0]), pixels(variations[1]))
        assert (tmp_path / "vary.png").exists()

    def test_guidance_on_z_is_for_models_trained_with_z_dropout(self, zsem, run, faces, tmp_path):
        told = "never saw an image without its z (z_dropout is 0)"
        code, _, err = zsem("vary", run, faces, "--out", tmp_path / "out", "--limit", "1", "--guidance-scale", "2")
        assert code == 2 and told in err and not (tmp_path / "out").exists()
        free, file = tmp_path / "free", tmp_path / "z.parquet"
        assert zsem("train", faces, "--out", free, *TINY, "--objective.z-dropout", "0.5")[0] == 0
        assert zsem("encode", free, faces, "--out", file, "--limit", "2")[0] == 0
        assert zsem("decode", run, file, "--out", tmp_path / "out", "--guidance-scale", "2")[0] == 2
        for scale in ("1", "0", "1e4"):
            assert zsem("decode", free, file, "--out", tmp_path / scale, "--guidance-scale", scale)[0] == 0
        assert zsem("decode", free, file, "--out", tmp_path / "plain")[0] == 0
        name = next(path.relative_to(tmp_path / "0") for path in (tmp_path / "0").rglob("*.png"))
        plain, one, none, far = (pixels(tmp_path / folder / name) for folder in ("plain", "1", "0", "1e4"))
        assert np.array_equal(plain, one)
        assert not np.array_equal(plain, far) and not np.array_equal(none, far)
        args = ("--limit", "1", "--number", "1", "--guidance-scale", "2")
        assert zsem("vary", free, faces, "--out", tmp_path / "vary", *args)[0] == 0

    def test_mix_of_an_image_with_itself_is_the_image(self, zsem, run, faces, tmp_path):
        a = next(Path(faces).glob("val/*.png"))
        code, out, _ = zsem("mix", run, a, faces, "--out", tmp_path / "out", "--limit", "2", "--json")
        assert code == 0
        assert json.loads(out)["n"] == 2
        code, _, _ = zsem("mix", run, a, a, "--out", tmp_path / "same")
        assert code == 0
        assert np.array_equal(pixels(tmp_path / "same" / f"{a.stem}--{a.stem}.png"), pixels(a))
        assert (tmp_path / "out" / "mix.png").exists()


class TestInfoAndData:
    def test_info_for_people(self, zsem, run):
        code, out, _ = zsem("info", run)
        assert code == 0
        assert "config.image_size" in out
        assert "history.iterations" in out

    def test_data_sets_and_what_is_in_them(self, zsem, tmp_path):
        folder = tmp_path / "faces"
        command = ("data", "avatars", "--number", "12", "--size", "16", "--out", folder)
        assert zsem(*command)[0] == 0
        code, out, _ = zsem(*command, "--json")
        assert code == 0
        assert json.loads(out)["number"] == 12
        (folder / "train" / "torn.png").write_bytes(b"no image")
        code, out, err = zsem("data", "info", folder, "--json")
        about = json.loads(out)
        assert code == 0
        assert about["n"] == 12
        assert about["sizes"] == {"16 x 16": 12}
        assert about["splits"] == {"train": 11, "val": 1}
        assert about["skipped"] == [{"path": "train/torn.png", "reason": "not an image"}]
        assert 0 <= about["attributes"]["smile"]["mean"] <= 1
        assert "torn.png" in err
        code, out, _ = zsem("data", "info", folder)
        assert code == 0
        assert "split: train (11), val (1)" in out
        assert "cannot be read: train/torn.png" in out

    def test_digits(self, zsem, tmp_path):
        assert zsem("data", "digits", "--size", "8", "--out", tmp_path / "digits")[0] == 0
        code, out, _ = zsem("data", "info", tmp_path / "digits", "--limit", "100")
        assert code == 0
        assert "100 images, grey" in out
        assert "class: 0 (" in out
