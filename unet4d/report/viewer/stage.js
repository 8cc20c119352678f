// The 4D viewer: NiiVue with image and segmentation of a study, both always in the same frame, the patient's left on the right.
"use strict";

const AXIAL = 0, CORONAL = 1, SAGITTAL = 2, ALL_PLANES = 3; // as NiiVue numbers them
const ACROSS = { [AXIAL]: 2, [CORONAL]: 1, [SAGITTAL]: 0 }; // the axis (0 left-right, 1 back-front, 2 foot-head) a view looks along

function hasWebGL2() {
  return Boolean(window.WebGL2RenderingContext && document.createElement("canvas").getContext("webgl2"));
}

// The outline of every class within the slices: voxels with another class beside them in the two axes across `thick`.
function findOutlines(voxels, dims, thick) {
  const strides = [1, dims[0], dims[0] * dims[1]];
  const sides = [0, 1, 2].filter((axis) => axis !== thick);
  const volume = dims[0] * dims[1] * dims[2];
  const out = new Uint8Array(voxels.length);
  for (let at = 0; at < voxels.length; at++) {
    const value = voxels[at];
    if (!value) continue;
    const inFrame = at % volume;
    for (const axis of sides) {
      const place = Math.floor(inFrame / strides[axis]) % dims[axis];
      const edge = place === 0 || place === dims[axis] - 1;
      if (edge || voxels[at - strides[axis]] !== value || voxels[at + strides[axis]] !== value) {
        out[at] = value;
        break;
      }
    }
  }
  return out;
}

function colormap(classes) {
  const table = { R: [0], G: [0], B: [0], A: [0], I: [0], labels: [""] };
  for (const one of classes) {
    const code = parseInt(one.color.slice(1), 16);
    table.R.push(code >> 16);
    table.G.push((code >> 8) & 255);
    table.B.push(code & 255);
    table.A.push(255);
    table.I.push(one.value);
    table.labels.push(one.name);
  }
  return table;
}

// Put the study onto the canvas. Returns the functions that the controls of the page call.
async function openStage(canvas, study, imageBase64, labelBase64, moved) {
  const viewer = new niivue.Niivue({
    logLevel: "error",
    loadingText: "",
    dragAndDropEnabled: false,
    isRadiologicalConvention: true,
    sagittalNoseLeft: true,
    backColor: [0.063, 0.078, 0.094, 1],
    fontColor: [0.78, 0.82, 0.86, 1],
    crosshairColor: [0.9, 0.92, 0.95, 0.55],
    crosshairWidth: 0,
    multiplanarShowRender: 0,
    multiplanarPadPixels: 6,
    tileMargin: 6,
    centerMosaic: true,
    fontMinPx: 12,
    showAllOrientationMarkers: true,
    viewModeHotKey: "",
    clipPlaneHotKey: "",
    cycleClipPlaneHotKey: "",
  });
  await viewer.attachToCanvas(canvas);
  const open = (base64, name, settings) => niivue.NVImage.loadFromBase64({ base64, name, trustCalMinMax: true, ...settings });
  const image = await open(imageBase64, "image.nii.gz", { colormap: "gray", cal_min: 0, cal_max: 255 });
  const label = await open(labelBase64, "segmentation.nii.gz", { cal_min: 0, cal_max: 255, opacity: 0.45 });
  label.setColormapLabel(colormap(study.classes));
  viewer.addVolume(image);
  viewer.addVolume(label);

  const acquired = [AXIAL, CORONAL, SAGITTAL].find((view) => Math.abs(image.permRAS[ACROSS[view]]) === study.thick_axis + 1);
  const dims = image.dims.slice(1, 4);
  const filled = label.img;
  let outlines = null;
  let view = acquired;
  let frame = 0;

  function across() {
    return ACROSS[view === ALL_PLANES ? acquired : view];
  }
  // From the order in the file to that in the patient, and back.
  function reorder(index) {
    return image.permRAS[across()] > 0 ? index : stage.count() - 1 - index;
  }
  function refresh() {
    viewer.updateGLVolume();
    moved();
  }
  viewer.onLocationChange = () => moved();

  const stage = {
    viewer,
    acquired,
    count: () => image.dimsRAS[across() + 1],
    // Slices are counted as the file has them, which may be against the way they lie in the patient.
    slice: () => reorder(Math.min(stage.count() - 1, Math.max(0, Math.floor(viewer.scene.crosshairPos[across()] * stage.count())))),
    // The same slice's number in the whole study.
    studySlice() {
      const axis = Math.abs(image.permRAS[across()]) - 1;
      return study.start[axis] + study.steps[axis] * stage.slice();
    },
    frame: () => frame,
    setFrame(next) {
      if (next === frame) return;
      frame = next;
      image.frame4D = next;
      label.frame4D = next;
      refresh();
    },
    setSlice(index) {
      viewer.scene.crosshairPos[across()] = (reorder(index) + 0.5) / stage.count();
      viewer.drawScene();
      moved();
    },
    hasSlice: () => viewer.opts.sliceMosaicString === "",
    setView(name) {
      view = { slices: acquired, mosaic: acquired, planes: ALL_PLANES, axial: AXIAL, coronal: CORONAL, sagittal: SAGITTAL }[name];
      viewer.opts.crosshairWidth = name === "planes" ? 0.25 : 0;
      viewer.opts.sliceMosaicString = name === "mosaic" ? mosaic() : "";
      viewer.setSliceType(view);
      moved();
    },
    setOpacity(share) {
      label.opacity = share;
      refresh();
    },
    setOutlined(wanted) {
      outlines = wanted && !outlines ? findOutlines(filled, dims, study.thick_axis) : outlines;
      label.img = wanted ? outlines : filled;
      refresh();
    },
  };

  // All acquired slices side by side, as near to the canvas's shape as they go.
  function mosaic() {
    const letter = { [AXIAL]: "A", [CORONAL]: "C", [SAGITTAL]: "S" }[acquired];
    const axis = ACROSS[acquired];
    const count = image.dimsRAS[axis + 1];
    const shown = Math.min(count, 24);
    const sides = [0, 1, 2].filter((other) => other !== axis).map((a) => image.dimsRAS[a + 1] * image.pixDimsRAS[a + 1]);
    const wide = (canvas.clientWidth / canvas.clientHeight) * (sides[1] / sides[0]);
    const columns = Math.max(1, Math.min(shown, Math.round(Math.sqrt(shown * wide))));
    const words = [];
    for (let n = 0; n < shown; n++) {
      if (n && n % columns === 0) words.push(";");
      const index = shown === 1 ? 0 : Math.round((n * (count - 1)) / (shown - 1));
      const place = [0.5, 0.5, 0.5];
      place[axis] = (reorder(index) + 0.5) / count;
      const mm = viewer.frac2mm(place, 0, false);
      words.push(letter, mm[axis].toFixed(3));
    }
    return words.join(" ");
  }

  viewer.scene.crosshairPos = [0.5, 0.5, 0.5];
  if (study.center) viewer.scene.crosshairPos = viewer.mm2frac(study.center, 0, true);
  stage.setView("slices");
  viewer.updateGLVolume();
  return stage;
}
