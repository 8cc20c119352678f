// The page of a study: the viewer, its controls and the curves, all showing the same frame.
"use strict";

(function () {
  const byId = (id) => document.getElementById(id);
  const study = JSON.parse(byId("study").textContent);
  const FALLBACK_LOOP_S = 1.5; // where the frame duration is unknown, as in the animation
  const place = new Map(study.shown_frames.map((frame, index) => [frame, index]));
  let stage = null;
  let marks = [];
  let frame = study.shown_frames[0];
  let playing = false;

  function nearestShown(wanted) {
    if (place.has(wanted)) return wanted;
    return study.shown_frames.reduce((best, one) => (Math.abs(one - wanted) < Math.abs(best - wanted) ? one : best));
  }

  function show(wanted) {
    frame = nearestShown(wanted);
    const index = place.get(frame);
    if (stage) stage.setFrame(index);
    for (const mark of marks) mark(frame);
    byId("frame").value = index;
    updateOutputs();
  }

  function updateOutputs() {
    const time = study.frame_duration_s ? ` · ${(1000 * frame * study.frame_duration_s).toFixed(0)} ms` : "";
    byId("frame-value").textContent = `${frame}${time}`;
    if (!stage) return;
    byId("slice").max = stage.count() - 1;
    byId("slice").value = stage.slice();
    byId("slice").disabled = !stage.hasSlice() || stage.count() < 2;
    byId("slice-value").textContent = stage.hasSlice() ? stage.studySlice() : "all";
  }

  function step(by) {
    const count = study.shown_frames.length;
    show(study.shown_frames[(place.get(frame) + by + count) % count]);
  }

  function play(wanted) {
    playing = wanted && study.shown_frames.length > 1;
    byId("play").textContent = playing ? "❚❚ Pause" : "▶ Play";
    byId("play").setAttribute("aria-pressed", playing);
    if (!playing) return;
    const count = study.shown_frames.length;
    const began = performance.now();
    const first = place.get(frame);
    const speed = Number(byId("speed").value);
    const loop = study.frame_duration_s ? study.frame_duration_s * study.frames : FALLBACK_LOOP_S;
    const perFrame = (1000 * loop) / count / speed;
    const turn = (now) => {
      if (!playing || turn !== play.turn) return;
      const next = study.shown_frames[(first + Math.max(0, Math.floor((now - began) / perFrame))) % count];
      if (next !== frame) show(next);
      requestAnimationFrame(turn);
    };
    play.turn = turn; // an earlier turn ends
    requestAnimationFrame(turn);
  }

  function controls() {
    byId("frame").max = study.shown_frames.length - 1;
    byId("frame").addEventListener("input", (event) => {
      play(false);
      show(study.shown_frames[event.target.valueAsNumber]);
    });
    byId("play").addEventListener("click", () => play(!playing));
    byId("speed").addEventListener("change", () => play(playing));
    byId("slice").addEventListener("input", (event) => stage && stage.setSlice(event.target.valueAsNumber));
    byId("opacity").addEventListener("input", (event) => stage && stage.setOpacity(event.target.valueAsNumber / 100));
    byId("outline").addEventListener("change", (event) => stage && stage.setOutlined(event.target.checked));
    for (const button of document.querySelectorAll("[data-view]"))
      button.addEventListener("click", () => {
        if (!stage) return;
        stage.setView(button.dataset.view);
        for (const other of document.querySelectorAll("[data-view]")) other.classList.toggle("chosen", other === button);
      });
    for (const button of document.querySelectorAll("[data-frame]"))
      button.addEventListener("click", () => {
        play(false);
        show(Number(button.dataset.frame));
      });
    document.addEventListener("keydown", onKey);
  }

  function onKey(event) {
    if (event.ctrlKey || event.altKey || event.metaKey || event.target.closest("input, select, textarea")) return;
    const onStage = byId("stage").matches(":hover") || byId("stage").contains(document.activeElement);
    const act = { ArrowLeft: () => step(-1), ArrowRight: () => step(1) };
    if (onStage && stage) {
      const move = (by) => stage.setSlice(Math.min(stage.count() - 1, Math.max(0, stage.slice() + by)));
      Object.assign(act, { ArrowUp: () => move(1), ArrowDown: () => move(-1), " ": () => play(!playing) });
    }
    if (!act[event.key]) return;
    if (event.key !== " ") play(false);
    event.preventDefault();
    act[event.key]();
  }

  function hideStage(reason) {
    byId("stage").hidden = true;
    byId("no-stage").hidden = false;
    byId("no-stage-reason").textContent = reason;
    document.body.dataset.stage = "none";
  }

  async function begin() {
    controls();
    const pick = (wanted) => {
      play(false);
      show(wanted);
    };
    marks = study.curves.map((curve, k) => {
      const id = `curve${k || ""}`;
      return keepCurve(byId(id), byId(`${id}-legend`), study, curve, pick);
    });
    if (marks.length) document.body.classList.add("has-curve");
    show(frame);
    if (!hasWebGL2()) return hideStage("This browser has no WebGL2");
    try {
      const [image, label] = ["image-data", "label-data"].map((id) => byId(id).textContent.trim());
      stage = await openStage(byId("canvas"), study, image, label, updateOutputs);
      byId("image-data").remove(); // decoded by now
      byId("label-data").remove();
    } catch (error) {
      return hideStage(`The viewer could not start (${error.message})`);
    }
    window.stage = stage; // for the console
    const first = study.moments.length ? study.moments[0].frame : frame;
    show(first);
    stage.setFrame(place.get(frame));
    updateOutputs();
    document.body.dataset.stage = "ready";
  }

  begin();
})();
