// What is around k3d's picture: the slider of the level, what is drawn, atoms by name, the PNG.
// `plot` is k3d's object; `scene` is what page.py says: ids of k3d's objects and what they are.
const { THREE } = plot.Provider;
const world = plot.getWorld();
const known = id => world.ObjectsListJson[id];
const element = (name, attributes = {}, ...children) => {
  const made = Object.assign(document.createElement(name), attributes);
  made.append(...children);
  return made;
};

// One change of the picture at a time, and of those that pile up meanwhile only the last.
let work = Promise.resolve(), waiting = null;
function soon(change) {
  const idle = waiting === null;
  waiting = change;
  if (idle) work = work.then(() => { const next = waiting; waiting = null; return next(); });
}
const change = (id, changes) => plot.reload(Object.assign(known(id), changes), changes);

let layer = scene.layers[0];
const slider = element("input", { type: "range", id: "level", min: 0, max: 1, step: 0.002 });
const opacity = element("input", {
  type: "range", id: "opacity", min: 0.1, max: 1, step: 0.05, value: scene.opacity,
});
const told = element("output", { id: "level-now" });
const levelNow = () => layer.lowest * (layer.highest / layer.lowest) ** slider.value;

// k3d turns and stretches a surface's box, but a cell may be skewed as well.
function skew(id) {
  const surface = world.ObjectsById[id];
  surface.matrix.set(...known(id).model_matrix.data);
  surface.matrix.multiply(new THREE.Matrix4().makeTranslation(-0.5, -0.5, -0.5));
  surface.matrixAutoUpdate = false;
  surface.updateMatrixWorld(true);
}

async function redraw() {
  const level = levelNow(), fade = +opacity.value;
  told.textContent = `${layer.signed ? "±" : ""}${level.toPrecision(2)} ${layer.unit}`;
  for (const one of scene.layers) {
    for (const id of one.surfaces) {
      if (one !== layer) await change(id, { visible: false });
      else {
        await change(id, { visible: true, level: -level, opacity: fade });
        skew(id);
      }
    }
  }
  plot.render();
}

const bars = element("div", { id: "bars" });
function bar(gradient, title, unit, reach) {
  const strip = element("span", { className: "strip" });
  strip.style.background = `linear-gradient(to right, ${gradient.join()})`;
  return element("div", {}, `${title}: -${reach} `, strip, ` ${reach} ${unit}`);
}

function choose(index) {
  layer = scene.layers[index];
  slider.value = Math.log(layer.level / layer.lowest) / Math.log(layer.highest / layer.lowest);
  legend();
  soon(redraw);
}

let colouring = scene.colourings[0];
function legend() {
  bars.replaceChildren();
  const signs = layer.signed ? ["above zero", "below zero"] : [];
  signs.forEach((name, k) => {
    const patch = element("span", { className: "patch" });
    patch.style.background = layer.colours[k];
    bars.append(element("div", {}, patch, ` ${name}`));
  });
  if (layer.paint) {
    bars.append(bar(scene.gradient, layer.paint.title, layer.paint.unit, layer.paint.reach));
  }
  if (colouring.reach) bars.append(bar(scene.gradient, colouring.title, "e", colouring.reach));
}
function recolour(id, numbers) {
  const { data, shape } = known(id).colors;
  return change(id, { colors: { data: data.constructor.from(numbers), shape } });
}
function colour(index) {
  colouring = scene.colourings[index];
  legend();
  const ends = scene.ends.flatMap(ball => [colouring.colours[ball], colouring.colours[ball]]);
  soon(async () => {
    await recolour(scene.structure[0], colouring.colours);
    if (ends.length) await recolour(scene.structure[1], ends);
    await redraw();
  });
}

function select(id, options, then) {
  const names = options.map(({ title }, value) => element("option", { value }, title));
  return element("select", { id, hidden: options.length < 2, onchange: e => then(e.target.value) }, ...names);
}

// Names of atoms: of the one under the pointer, or of all. They lie on k3d's overlay, so that they
// are in the PNG as well.
const names = scene.atoms.map(({ text }) => element("div", { className: "name" }, text));
world.overlayDOMNode.append(...names);
world.overlayDOMNode.style.zIndex = 11;  // the canvas has 10
const showAll = element("input", { type: "checkbox", id: "names" });
let hovered = -1;
const seen = ({ place }) => {
  const at = new THREE.Vector3(...place), depth = at.clone().applyMatrix4(world.camera.matrixWorldInverse).z;
  at.project(world.camera);
  return { x: (at.x + 1) / 2 * world.width, y: (1 - at.y) / 2 * world.height, depth };
};
function place() {
  scene.atoms.forEach((atom, k) => {
    const shown = k === hovered || (showAll.checked && !atom.image);
    names[k].style.display = shown ? "block" : "none";
    if (!shown) return;
    names[k].textContent = k === hovered ? atom.text : atom.short;
    const { x, y } = seen(atom);
    names[k].style.left = `${x}px`;
    names[k].style.top = `${y}px`;
  });
}
function under(x, y) {
  const scale = world.height / 2 / Math.tan(world.camera.fov * Math.PI / 360);  // pixels times depth
  let found = -1, nearest = -Infinity;
  scene.atoms.forEach((atom, k) => {
    const at = seen(atom);
    const inside = Math.hypot(at.x - x, at.y - y) < 1.2 * atom.radius * scale / -at.depth;
    if (inside && at.depth > nearest) [found, nearest] = [k, at.depth];
  });
  return found;
}
const canvas = document.getElementById("canvasTarget");
canvas.addEventListener("pointermove", event => {
  const box = canvas.getBoundingClientRect();
  const now = event.buttons ? -1 : under(event.clientX - box.left, event.clientY - box.top);
  if (now !== hovered) { hovered = now; place(); }
});
plot.on(plot.events.RENDERED, place);

async function save() {
  const picture = await plot.getScreenshot(2);
  picture.toBlob(blob => {
    const link = element("a", { href: URL.createObjectURL(blob), download: "neupol.png" });
    link.click();
    URL.revokeObjectURL(link.href);
  });
}

document.body.append(element("header", {},
  element("b", {}, scene.title),
  select("layer", scene.layers, choose),
  element("label", {}, "level ", slider, " ", told),
  element("label", {}, "opacity ", opacity),
  select("colouring", scene.colourings, colour),
  element("label", {}, showAll, " names"),
  element("button", { onclick: save }, "PNG"),
  bars,
  element("small", {}, "drag: turn; wheel: zoom; right button: shift")));
if (scene.beside) document.body.append(element("aside", { innerHTML: scene.beside }));
[slider, opacity].forEach(each => each.addEventListener("input", () => soon(redraw)));
showAll.addEventListener("change", place);
choose(0);
colour(0);
