"""Draws the diagrams of the how-to pages as SVG: `python docs/drawing/diagrams.py`."""

from __future__ import annotations

from svg import Drawing


def several_gpus() -> None:
    """Draw one batch shared by four GPUs."""
    drawing = Drawing(
        880, 300, "One batch on four GPUs",
        "Eight clips of one batch go to four GPUs, two each. The GPUs exchange gradients, and each makes the same update.",
    )  # fmt: skip
    drawing.text(24, 34, "train.batch_size 8 on 4 GPUs", size=16, bold=True)
    drawing.box(24, 92, 150, 130, "", "data")
    drawing.text(99, 82, "one batch: 8 clips", "data", 13, "middle")
    for number in range(8):
        drawing.box(36 + number % 2 * 66, 102 + number // 2 * 29, 60, 23, f"clip {number + 1}", "data", 11)
    for gpu in range(4):
        y = 62 + 52 * gpu
        drawing.box(
            290,
            y,
            210,
            40,
            f"GPU {gpu}: clips {2 * gpu + 1} and {2 * gpu + 2}\nforward and backward pass",
            "encoder",
            12,
        )
        drawing.arrow([(178, 157), (286, y + 20)], "data")
        drawing.arrow([(502, y + 20), (580, y + 20)], "encoder", both=True)
        drawing.arrow([(648, y + 20), (710, y + 20)])
        drawing.box(712, y, 140, 40, "same weights", size=12)
    drawing.box(582, 62, 64, 196, "mean\nof the\ngradients", "lstm", 12)
    drawing.text(
        24,
        284,
        "The loss, Dice included, is that of the whole batch. Only the first process prints and writes.",
        "note",
        13,
    )
    drawing.save("several_gpus.svg")


def slurm() -> None:
    """Draw a requeued training and an array of predictions over time."""
    drawing = Drawing(
        880, 350, "A training that is requeued, and an array of predictions",
        "Above: a job trains, gets a signal two minutes before its end, writes a checkpoint, ends with code 75 and is requeued "
        "until the training is done. Below: nine studies are shared by three jobs of an array, every third one to each.",
    )  # fmt: skip
    drawing.text(24, 34, "Training: one job, requeued until it is done", size=16, bold=True)
    for number, (x, words) in enumerate(((24, "train"), (314, "train --resume"), (604, "train --resume"))):
        drawing.box(x, 60, 200, 40, words, "encoder", 13)
        if number < 2:
            drawing.arrow([(x + 176, 128), (x + 176, 104)], "lstm")
            drawing.text(x + 176, 144, "SIGTERM, 2 min before the end", "lstm", 12, "middle")
            drawing.arrow([(x + 202, 80), (x + 286, 80)])
            drawing.text(x + 245, 70, "75: requeue", size=12, anchor="middle")
    drawing.text(812, 85, "0: done", size=12)
    drawing.text(24, 196, "Prediction: an array of 3 jobs, sbatch --array=0-2", size=16, bold=True)
    for job, kind in enumerate(("encoder", "decoder", "lstm")):
        drawing.text(24, 237 + 38 * job, f"job {job}", kind, 13, bold=True)
        for study in range(9):
            mine = study % 3 == job
            drawing.box(
                90 + 82 * study, 220 + 38 * job, 72, 26, f"study {study}" if mine else "", kind if mine else "note", 11
            )
    drawing.text(24, 340, "All jobs write into the same folder.", "note", 13)
    drawing.save("slurm.svg")


def docker() -> None:
    """Draw the folders that a container sees."""
    drawing = Drawing(
        880, 240, "Folders of the host in the container",
        "The folder of the dataset is mounted at /data, read-only. The folder runs is mounted at /runs; results are written there.",
    )  # fmt: skip
    drawing.box(24, 24, 330, 192, "", "note")
    drawing.text(40, 48, "your machine", "note", 14, bold=True)
    drawing.box(526, 24, 330, 192, "", "encoder")
    drawing.text(542, 48, "container unet4d", "encoder", 14, bold=True)
    for y, host, inside, words, kind in (
        (70, "/path/to/dataset", "/data", "-v ...:/data:ro", "data"),
        (122, "runs/", "/runs", "-v ...:/runs", "decoder"),
    ):
        drawing.box(48, y, 282, 36, host, kind, 14)
        drawing.box(550, y, 282, 36, inside, kind, 14)
        drawing.arrow([(334, y + 18), (546, y + 18)], kind, both=kind == "decoder")
        drawing.text(440, y + 10, words, kind, 13, "middle")
    drawing.text(48, 196, "results belong to you: --user", "note", 13)
    drawing.text(550, 196, "shared memory of the host: --ipc=host", "note", 13)
    drawing.save("docker.svg")


def orthanc() -> None:
    """Draw the way of a series from the scanner to its results."""
    drawing = Drawing(
        880, 290, "A series on its way through Orthanc",
        "The scanner sends a series to Orthanc. The worker reads the rules, fetches the series, segments it and stores "
        "segmentation, report and pictures in the same study. Orthanc may send them on to a PACS.",
    )  # fmt: skip
    drawing.box(24, 90, 120, 60, "scanner", "note", 14)
    drawing.box(316, 60, 230, 120, "", "encoder")
    drawing.text(431, 50, "Orthanc", "encoder", 14, "middle", bold=True)
    drawing.text(431, 84, "one study", "encoder", 12, "middle")
    drawing.box(330, 94, 202, 28, "cine series", "data", 13)
    drawing.box(330, 136, 202, 28, "SEG, SR, pictures", "lstm", 13)
    drawing.box(700, 90, 156, 60, "unet4d orthanc\nrules.yaml, model", "decoder", 13)
    drawing.arrow([(148, 108), (326, 108)], "data")
    drawing.text(231, 98, "1  DICOM, port 4242", "data", 12, "middle")
    drawing.arrow([(536, 108), (696, 108)], "data")
    drawing.text(622, 98, "2  fetch", "data", 12, "middle")
    drawing.text(778, 78, "3  segment", "decoder", 12, "middle")
    drawing.arrow([(696, 140), (620, 140), (620, 150), (536, 150)], "lstm")
    drawing.text(622, 170, "4  store", "lstm", 12, "middle")
    drawing.box(24, 214, 120, 48, "PACS", "note", 14)
    drawing.arrow([(431, 184), (431, 238), (148, 238)], "lstm", dashed=True)
    drawing.text(290, 230, "5  send on, if route.lua says so", "lstm", 12, "middle")
    drawing.text(460, 256, "The record of each series is kept on the server: answered once.", "note", 12)
    drawing.save("orthanc.svg")


def resume() -> None:
    """Draw the epochs of a training that is killed and continued."""
    drawing = Drawing(
        880, 200, "A training that is killed and continued",
        "Three epochs with a checkpoint after each. The training is killed in the fourth epoch. Continued, it starts from the "
        "last checkpoint and repeats the fourth epoch.",
    )  # fmt: skip
    drawing.text(24, 34, "Killed in epoch 4, continued with --resume", size=16, bold=True)
    for row, (y, epochs) in enumerate(((64, (1, 2, 3, 4)), (124, (4, 5, 6)))):
        for epoch in epochs:
            is_lost = not row and epoch == 4
            x = 24 + 134 * (epoch - 1)
            drawing.box(x, y, 64 if is_lost else 108, 34, f"epoch {epoch}", "note" if is_lost else "encoder", 12)
            if not is_lost:
                drawing.circle(x + 121, y + 17, 7, "lstm")
    drawing.arrow([(494, 81), (514, 81)], "lstm", head=False)
    drawing.text(520, 86, "killed: this part of an epoch is lost", "lstm", 13)
    drawing.arrow([(413, 92), (413, 141), (422, 141)], "lstm")
    drawing.circle(36, 184, 7, "lstm")
    drawing.text(52, 188, "checkpoint: network, optimizer and the number of the step", size=13)
    drawing.save("resume.svg")


def layouts() -> None:
    """Draw the layouts that become a dataset."""
    drawing = Drawing(
        880, 310, "From files of many kinds to a dataset",
        "Frames as single files, sequences of 3D Slicer, DICOM, nnU-Net and ACDC go through unet4d convert. 4D NIfTI files are "
        "described by dataset.json. All end in a dataset, which verify checks and train takes.",
    )  # fmt: skip
    sources = {
        "frames": "one 3D file per frame", "sequence": ".seq.nrrd of 3D Slicer", "dicom": "DICOM, with SEG and RTSTRUCT",
        "nnunet": "raw data of nnU-Net", "acdc": "the ACDC challenge",
    }  # fmt: skip
    for row, (name, words) in enumerate(sources.items()):
        y = 24 + 44 * row
        drawing.box(24, y, 270, 34, f"{name}: {words}", "data", 13)
        drawing.arrow([(298, y + 17), (328, 129)], "data")
    drawing.box(332, 100, 150, 58, "unet4d convert", "encoder", 14)
    drawing.arrow([(486, 129), (566, 129)], "encoder")
    drawing.box(24, 256, 270, 34, "4D NIfTI", "data", 13)
    drawing.arrow([(298, 273), (640, 273), (640, 192)], "data")
    drawing.text(330, 264, "write dataset.json yourself", "data", 12)
    drawing.box(570, 70, 140, 118, "DATASET\ndataset.json\nimages/\nlabels/", "decoder", 14)
    for y, words in ((84, "unet4d verify"), (146, "unet4d train")):
        drawing.arrow([(714, y + 12), (742, y + 12)], "decoder")
        drawing.text(748, y + 16, words, "decoder", 14)
    drawing.save("layouts.svg")


def axes() -> None:
    """Draw the axes of a study in memory and on disk."""
    drawing = Drawing(
        880, 190, "Axes of a study",
        "In memory an image has the axes C, T, X, Y, Z and a label T, X, Y, Z. A network takes B, T, C, X, Y, Z. On disk NIfTI has "
        "X, Y, Z, T.",
    )  # fmt: skip
    rows = (
        ("Image4D.array", "CTXYZ", "float32, one value per channel, frame and voxel"),
        ("label map", "TXYZ", "uint8, values as in the files"),
        ("tensor of a network", "BTCXYZ", "a batch; logits have classes K in place of C"),
        ("NIfTI file", "XYZT", "one file per channel; read_image turns the axes"),
    )
    kinds = {"T": "lstm", "C": "data", "B": "note"}
    for row, (name, names, words) in enumerate(rows):
        y = 18 + 42 * row
        drawing.text(24, y + 20, name, size=14, bold=True)
        for place, axis in enumerate(names):
            drawing.box(210 + 44 * place, y, 38, 28, axis, kinds.get(axis, "encoder"), 14)
        drawing.text(492, y + 19, words, size=13)
    drawing.save("axes.svg")


def export() -> None:
    """Draw the graphs of a frame and the way of the state through the frames."""
    drawing = Drawing(
        880, 300, "Graphs of one frame",
        "Each frame passes through the encoder, one time step of each cell, and the decoder. The state of a cell passes from frame "
        "to frame: forward cells from the first to the last, backward cells from the last to the first.",
    )  # fmt: skip
    rows = (("encoder.onnx", 64, "encoder"), ("cell_0.onnx", 134, "lstm"), ("cell_1.onnx", 180, "lstm"))
    for frame in range(4):
        x = 40 + 208 * frame
        drawing.text(x + 70, 36, f"frame {frame + 1}", "data", 13, "middle")
        drawing.arrow([(x + 70, 42), (x + 70, 62)], "data")
        for name, y, kind in (*rows, ("decoder.onnx", 246, "decoder")):
            drawing.box(x, y, 140, 32, name, kind, 13)
        for start, end in ((96, 132), (212, 244)):
            drawing.arrow([(x + 70, start), (x + 70, end)])
        if frame < 3:
            drawing.arrow([(x + 142, 150), (x + 206, 150)], "lstm")
            drawing.arrow([(x + 206, 196), (x + 142, 196)], "lstm")
            drawing.text(x + 174, 142, "state", "lstm", 11, "middle")
            drawing.text(x + 174, 214, "state", "lstm", 11, "middle")
    drawing.save("export.svg")


def monai() -> None:
    """Draw a MONAI pipeline with the transforms of a study."""
    drawing = Drawing(
        880, 120, "A study in a MONAI pipeline",
        "LoadStudyd reads a study, MONAI's transforms change it in space, SplitFramesd gives the axis of time back, CLSTMUNet "
        "segments it, Invertd goes back to the study's grid and SaveStudyd writes it.",
    )  # fmt: skip
    parts = (
        ("LoadStudyd", "C*T X Y Z", "lstm"), ("MONAI's\ntransforms", "C*T X Y Z", "encoder"),
        ("SplitFramesd", "C T X Y Z", "lstm"), ("CLSTMUNet", "T K X Y Z", "lstm"), ("AsDiscreted,\nInvertd", "T X Y Z", "encoder"),
        ("SaveStudyd", "CASE.nii.gz", "lstm"),
    )  # fmt: skip
    for place, (name, shape, kind) in enumerate(parts):
        x = 24 + 143 * place
        drawing.box(x, 24, 112, 50, name, kind, 13)
        drawing.text(x + 56, 96, shape, "note", 12, "middle")
        if place:
            drawing.arrow([(x - 29, 49), (x - 3, 49)])
    drawing.save("monai.svg")


def own_classes() -> None:
    """Draw where classes of the user come in."""
    drawing = Drawing(
        880, 190, "Where classes of your own come in",
        "A clip passes the augmenter, the encoder, the temporal block, the decoder and the loss. Augmenter, temporal block and "
        "loss may be classes of yours.",
    )  # fmt: skip
    parts = (
        ("clip", "", "data"), ("augmentation", "data.augmenter", "lstm"), ("encoder", "", "encoder"),
        ("ConvLSTM", "model.temporal", "lstm"), ("decoder", "", "decoder"), ("Dice +\ncross-entropy", "train.loss", "lstm"),
    )  # fmt: skip
    for place, (name, setting, kind) in enumerate(parts):
        x = 24 + 143 * place
        drawing.box(x, 50, 112, 50, name, kind, 13)
        if place:
            drawing.arrow([(x - 29, 75), (x - 3, 75)])
        if setting:
            drawing.arrow([(x + 56, 136), (x + 56, 104)], "lstm")
            drawing.text(x + 56, 154, setting, "lstm", 13, "middle", bold=True)
            drawing.text(x + 56, 172, "a class of yours", "lstm", 12, "middle")
    drawing.save("own_classes.svg")


def main() -> None:
    """Write all of them."""
    for draw in (
        several_gpus,
        slurm,
        docker,
        orthanc,
        resume,
        layouts,
        axes,
        export,
        monai,
        own_classes,
    ):
        draw()


if __name__ == "__main__":
    main()
