// The viewer: one module for the notebook widget and for the page that opens from a file.
// `data` is what payload.py makes. Text is only ever set as textContent. `make viewer` checks types.
// @ts-check

/**
 * Deflated bytes, each the square root of a share of the largest value; `values` when unpacked.
 * @typedef {{shape: number[], top: number, bytes?: string, values?: Uint8Array}} Stack
 * @typedef {{text: string, kind: string}} Row
 * @typedef {{name: string, width: number, height: number, boxes: number[][], src: string|null}} Panel
 * @typedef {{name: string, attention: Stack[], phi?: Stack[], contribution?: Stack[], mass: Stack,
 *   heads: Record<string, Stack[]>}} Arm
 * @typedef {{vocabulary: string[], words: number[][]}} Lens
 * @typedef {{title: string, layers: number[], rows: Row[], start: number, panels: Panel[],
 *   probes: Record<string, string>, sinks: number|null, arms: Arm[], lens: Lens[]|null}} Data
 * @typedef {[number, number]} Place the number of a panel, and of a patch in it
 * @typedef {{panel: Panel, canvas: HTMLCanvasElement, picture: HTMLImageElement|null,
 *   figure: HTMLElement, caption: HTMLElement}} Shown
 */

const RAMP = [[255, 255, 204], [254, 217, 118], [253, 141, 60], [227, 26, 28], [128, 0, 38]];
const SIGNED = [[118, 42, 131], [194, 165, 207], [247, 247, 247], [166, 219, 160], [27, 120, 55]];
const HELP = "← → word · ↑ ↓ layer · [ ] head · d before/after · s sinks · o opacity · Esc unpin";

/**
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag @param {Record<string, any>} [given] @param {...(Node|string)} inside
 * @returns {HTMLElementTagNameMap[K]}
 */
function make(tag, given = {}, ...inside) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name in node && name !== "list") Object.assign(node, { [name]: value });
    else node.setAttribute(name, value);
  }
  node.append(...inside);
  return node;
}

/** @param {number[][]} ramp @param {number} share from 0 to 1 */
function colour(ramp, share) {
  const at = Math.min(Math.max(share, 0), 1) * (ramp.length - 1);
  const low = Math.min(Math.floor(at), ramp.length - 2);
  return ramp[low].map((c, i) => Math.round(c + (ramp[low + 1][i] - c) * (at - low)));
}

/** @param {Stack} stack */
async function unpack(stack) {
  if (stack.values || stack.bytes === undefined) return;
  const packed = Uint8Array.from(atob(stack.bytes), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  stack.values = new Uint8Array(await new Response(stream).arrayBuffer());
  delete stack.bytes;
}

/** One line of a stack: the values at some leading places. @param {Stack} stack @param {number[]} at */
function line(stack, at) {
  const shape = stack.shape;
  let place = 0;
  at.forEach((index, axis) => { place = place * shape[axis] + index; });
  const size = shape.slice(at.length).reduce((a, b) => a * b, 1);
  const found = new Float32Array(size);
  const bytes = stack.values || new Uint8Array();
  for (let i = 0; i < size; i++) found[i] = (bytes[place * size + i] / 255) ** 2 * stack.top;
  return found;
}

/** The number that occurs most. @param {number[]} numbers */
function commonest(numbers) {
  const counts = new Map();
  for (const number of numbers) counts.set(number, (counts.get(number) || 0) + 1);
  return [...counts].reduce((a, b) => (b[1] > a[1] ? b : a))[0];
}

/** The canvas's pen. @param {HTMLCanvasElement} canvas */
function penOf(canvas) {
  return /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
}

/** @param {HTMLElement} el @param {Data} data */
export function mount(el, data) {
  const state = {
    arm: 0, row: data.start, layer: data.layers.length >> 1, head: "mean", probe: "attention",
    opacity: 0.85, sinks: true, pinned: /** @type {Place|null} */ (null),
    hover: /** @type {Place|null} */ (null), ready: false,
  };
  /** The phi of every patch of a panel, in this layer and arm. */
  let phis = /** @type {Float32Array[]} */ ([]);
  const arms = data.arms.length > 1 ? [...data.arms.map((a) => a.name), "difference"] : [];
  const root = make("div", { className: "vsink", tabIndex: 0, role: "application" });
  root.setAttribute("aria-label", `attention of ${data.title}; keys: ${HELP}`);
  if (el.dataset.theme) root.classList.add(el.dataset.theme);
  el.replaceChildren(root);

  // --- controls -------------------------------------------------------------------------------
  const layerOut = make("output", { className: "number" });
  const layerIn = make("input", {
    type: "range", min: 0, max: data.layers.length - 1, step: 1, value: state.layer,
    "aria-label": "layer", oninput: () => set({ layer: Number(layerIn.value) }),
  });
  const headIn = make("select", { "aria-label": "head", onchange: () => set({ head: headIn.value }) });
  const probeIn = make("select", {
    "aria-label": "what is shown", onchange: () => set({ probe: probeIn.value }),
  });
  for (const [name, told] of Object.entries(data.probes)) {
    probeIn.append(make("option", { value: name, textContent: told }));
  }
  const armIn = make("select", {
    "aria-label": "before or after the edit", onchange: () => set({ arm: armIn.selectedIndex }),
  });
  arms.forEach((name) => armIn.append(make("option", { textContent: name })));
  const opacityIn = make("input", {
    type: "range", min: 0, max: 1, step: 0.05, value: state.opacity, "aria-label": "opacity",
    oninput: () => set({ opacity: Number(opacityIn.value) }),
  });
  const sinksIn = make("input", {
    type: "checkbox", checked: true, onchange: () => set({ sinks: sinksIn.checked }),
  });
  /** @param {string} name @param {...HTMLElement} inside */
  const field = (name, ...inside) => make("label", {}, make("span", { textContent: name }), ...inside);
  const bar = make(
    "div", { className: "bar" },
    field("layer", layerIn, layerOut), field("head", headIn), field("show", probeIn),
    ...(arms.length ? [field("edit", armIn)] : []),
    field("opacity", opacityIn), ...(data.sinks ? [field("sinks", sinksIn)] : []),
    make("button", { textContent: "PNG", title: "save the panels as a PNG file", onclick: save }),
    make("button", {
      textContent: "◐", title: "light or dark", "aria-label": "light or dark",
      onclick: () => root.classList.toggle(dark() ? "light" : "dark"),
    }),
  );
  const dark = () => matchMedia("(prefers-color-scheme: dark)").matches;

  // --- words, panels, navigator ---------------------------------------------------------------
  const strip = make("div", { className: "strip", role: "listbox", "aria-label": "words" });
  const words = data.rows.map((row, i) => make("button", {
    className: `word ${row.kind}`, textContent: row.text || "␣", title: row.kind, role: "option",
    onclick: () => set({ row: i, pinned: null }),
  }));
  strip.append(
    make("small", { textContent: "prompt" }), ...words.filter((_, i) => data.rows[i].kind === "prompt"),
    make("small", { textContent: "answer" }), ...words.filter((_, i) => data.rows[i].kind === "answer"),
  );
  const panels = data.panels.map((panel, i) => {
    const canvas = make("canvas", { role: "img" });
    const picture = panel.src ? make("img", { src: panel.src, alt: "" }) : null;
    if (picture) picture.addEventListener("load", () => draw());
    canvas.addEventListener("mousemove", (event) => hover(i, at(panel, canvas, event)));
    canvas.addEventListener("mouseleave", () => hover(i, null));
    canvas.addEventListener("click", (event) => {
      const patch = at(panel, canvas, event);
      set({ pinned: patch === null || same(state.pinned, [i, patch]) ? null : [i, patch] });
    });
    const caption = make("figcaption", { textContent: panel.name });
    const figure = make("figure", {}, canvas, caption);
    return { panel, canvas, picture, figure, caption };
  });
  const scale = make("div", { className: "scale" });
  const told = make("div", { className: "told", "aria-live": "polite" });
  const mass = make("canvas", {
    className: "mass", role: "img", "aria-label": "attention to the image by layer and head",
    title: "attention to the image; click: that layer and head",
  });
  mass.addEventListener("click", (event) => {
    const [layers, heads] = [data.layers.length, massHeads()];
    const box = mass.getBoundingClientRect();
    const head = Math.floor(((event.clientX - box.left) / box.width) * heads);
    const layer = layers - 1 - Math.floor(((event.clientY - box.top) / box.height) * layers);
    set({ layer, head: heads > 1 && hasHead(layer) ? String(head) : state.head });
  });
  const side = make(
    "aside", {}, make("small", { textContent: "image mass: layer ↑ × head →" }), mass, told,
  );
  root.append(
    make("header", {}, make("b", { textContent: data.title }), make("small", { textContent: HELP })),
    bar, strip,
    make("main", {}, make("div", { className: "panels" }, ...panels.map((p) => p.figure)), side),
    scale,
  );

  // --- values ---------------------------------------------------------------------------------
  /** @param {Place|null} a @param {Place|null} b */
  const same = (a, b) => Boolean(a && b && a[0] === b[0] && a[1] === b[1]);
  const massHeads = () => (data.arms[0].mass ? data.arms[0].mass.shape[1] : 1);
  /** @param {number} layer */
  const hasHead = (layer) => Boolean(data.arms[0].heads[data.layers[layer]]);

  /**
   * The map of one row in one arm; null where there is none.
   * @param {number} arm @param {number} panel @param {number} row
   */
  function mapOf(arm, panel, row) {
    const layer = state.layer;
    const held = data.arms[arm];
    if (state.probe === "phi") return held.phi ? line(held.phi[panel], [layer]) : null;
    if (state.probe === "contribution" && held.contribution) return line(held.contribution[panel], [layer, row]);
    const heads = held.heads[data.layers[layer]];
    if (state.head === "mean" || !heads) return line(held.attention[panel], [layer, row]);
    if (state.head !== "max") return line(heads[panel], [Number(state.head), row]);
    const many = Array.from({ length: heads[panel].shape[0] }, (_, h) => line(heads[panel], [h, row]));
    return many[0].map((_, i) => Math.max(...many.map((one) => one[i])));
  }

  /**
   * What is drawn in a panel: of an arm, or the difference between the two.
   * @param {number} panel @param {number} row
   */
  function shown(panel, row) {
    if (state.arm < data.arms.length) return mapOf(state.arm, panel, row);
    const [before, after] = [mapOf(0, panel, row), mapOf(1, panel, row)];
    return before && after && after.map((v, i) => v - before[i]);
  }

  /** @param {number} panel @param {number} patch */
  const isSink = (panel, patch) => data.sinks !== null && phis[panel]?.[patch] >= data.sinks;
  const armShown = () => data.arms[Math.min(state.arm, data.arms.length - 1)];

  /** Which patch lies under the mouse. @param {Panel} panel @param {HTMLCanvasElement} canvas @param {MouseEvent} event */
  function at(panel, canvas, event) {
    const box = canvas.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width, y = (event.clientY - box.top) / box.height;
    const found = panel.boxes.findIndex(([l, t, r, b]) => l <= x && x < r && t <= y && y < b);
    return found < 0 ? null : found;
  }

  // --- drawing --------------------------------------------------------------------------------
  function draw() {
    layerIn.value = String(state.layer);
    layerOut.textContent = `${data.layers[state.layer]}`;
    words.forEach((word, i) => {
      word.classList.toggle("chosen", i === state.row);
      word.setAttribute("aria-selected", String(i === state.row));
    });
    if (!state.ready) { panels.forEach((one) => drawImage(one, size(one))); return; }
    offerHeads();
    phis = (armShown().phi || []).map((stack) => line(stack, [state.layer]));
    const maps = panels.map((_, i) => shown(i, state.row));
    const plain = maps.flatMap((map, i) =>
      map ? [...map].filter((_, patch) => state.probe === "phi" || !data.sinks || !isSink(i, patch)) : []);
    const all = plain.length ? plain : maps.flatMap((map) => (map ? [...map] : []));
    const top = Math.max(...all.map(Math.abs), 1e-9);
    panels.forEach((one, i) => drawPanel(one, i, maps[i], top));
    drawScale(top);
    drawMass();
    tint();
    tell();
  }

  /** @param {Shown} one */
  function size({ panel, canvas }) {
    const ratio = panel.height / panel.width;
    const width = Math.min(560, Math.max(220, 900 / data.panels.length));
    const pixels = Math.min(devicePixelRatio || 1, 2);
    canvas.width = Math.round(width * pixels);
    canvas.height = Math.round(width * ratio * pixels);
    canvas.style.width = `${width}px`;
    return penOf(canvas);
  }

  /** @param {Shown} one @param {CanvasRenderingContext2D} pen */
  function drawImage({ canvas, picture }, pen) {
    pen.fillStyle = "#888";
    pen.fillRect(0, 0, canvas.width, canvas.height);
    if (!picture || !picture.complete || !picture.naturalWidth) return;
    pen.imageSmoothingEnabled = picture.naturalWidth > canvas.width / 2;
    pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
    pen.fillStyle = "rgba(255,255,255,.45)";
    pen.fillRect(0, 0, canvas.width, canvas.height);
  }

  /** @param {Shown} one @param {number} i @param {Float32Array|null} map @param {number} top */
  function drawPanel(one, i, map, top) {
    const pen = size(one);
    drawImage(one, pen);
    const { width, height } = one.canvas;
    const signed = state.arm >= data.arms.length;
    /** @param {number} patch @returns {[number, number, number, number]} */
    const box = (patch) => {
      const [l, t, r, b] = one.panel.boxes[patch];
      return [l * width, t * height, (r - l) * width, (b - t) * height];
    };
    one.panel.boxes.forEach((_, patch) => {
      if (!map) return;
      const share = map[patch] / top;
      const [r, g, b] = signed ? colour(SIGNED, (share + 1) / 2) : colour(RAMP, share);
      const alpha = state.opacity * Math.min(1, Math.abs(share)) ** 0.5;
      pen.fillStyle = `rgba(${r},${g},${b},${alpha})`;
      pen.fillRect(...box(patch));
    });
    const told = state.probe === "lens" && data.lens
      ? drawWords(pen, data.lens[i], one.panel.boxes.map((_, p) => box(p))) : "";
    one.caption.textContent = one.panel.name + told;
    /** @param {number} patch @param {string} ink @param {number} thick */
    const frame = (patch, ink, thick) => {
      pen.strokeStyle = ink;
      pen.lineWidth = thick * Math.min(devicePixelRatio || 1, 2);
      const [x, y, w, h] = box(patch);
      pen.strokeRect(x + 1, y + 1, w - 2, h - 2);
    };
    if (data.sinks && state.sinks) {
      one.panel.boxes.forEach((_, patch) => { if (isSink(i, patch)) frame(patch, "#0058b0", 1.5); });
    }
    if (state.hover && state.hover[0] === i) frame(state.hover[1], "#fff", 2.5);
    if (state.pinned && state.pinned[0] === i) frame(state.pinned[1], "#000", 2.5);
    const best = map ? map.indexOf(Math.max(...map)) : -1;
    one.canvas.setAttribute("aria-label",
      `${one.panel.name}: ${data.probes[state.probe]} of ${data.rows[state.row].text}, ` +
      `layer ${data.layers[state.layer]}; most at patch ${best}`);
  }

  /**
   * The word that each patch is closest to, in letters that fit it; what most patches say is told
   * once, below the panel.
   * @param {CanvasRenderingContext2D} pen @param {Lens} lens @param {[number, number, number, number][]} boxes
   */
  function drawWords(pen, lens, boxes) {
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    const words = lens.words[state.layer], usual = commonest(words);
    const count = words.filter((word) => word === usual).length;
    words.forEach((word, patch) => {
      if (word === usual && count > 1) return;
      const [x, y, w, h] = boxes[patch], text = lens.vocabulary[word];
      const letters = Math.min(h * 0.5, (1.7 * w) / Math.max(text.length, 3));
      pen.font = `${letters}px sans-serif`;
      pen.lineWidth = letters / 5;
      pen.strokeStyle = "rgba(255,255,255,.8)";
      pen.strokeText(text, x + w / 2, y + h / 2, w);
      pen.fillStyle = "#000";
      pen.fillText(text, x + w / 2, y + h / 2, w);
    });
    return count > 1 ? `; ${count} of ${words.length} patches: “${lens.vocabulary[usual]}”` : "";
  }

  /** @param {number} top */
  function drawScale(top) {
    const signed = state.arm >= data.arms.length;
    const stops = (signed ? SIGNED : RAMP).map((c) => `rgb(${c.join()})`).join();
    const low = signed ? (-top).toPrecision(2) : "0";
    const bar = make("i", { style: `background:linear-gradient(90deg,${stops})` });
    const what = state.probe === "phi" ? "phi" : data.probes[state.probe === "lens" ? "attention" : state.probe];
    scale.replaceChildren(low, bar, `${top.toPrecision(2)} ${what}` +
      (data.sinks && state.probe !== "phi" ? " (sinks may exceed the scale)" : ""));
  }

  function drawMass() {
    const held = armShown().mass;
    const [layers, heads] = [data.layers.length, massHeads()];
    const cell = Math.max(4, Math.min(30, Math.floor(250 / Math.max(heads, 1))));
    const tall = Math.max(4, Math.min(24, Math.floor(300 / layers)));
    mass.width = heads * cell;
    mass.height = layers * tall;
    const pen = penOf(mass);
    for (let layer = 0; layer < layers; layer++) {
      for (let head = 0; head < heads; head++) {
        const [r, g, b] = colour(RAMP, line(held, [layer, head])[state.row]);
        pen.fillStyle = `rgb(${r},${g},${b})`;
        pen.fillRect(head * cell, (layers - 1 - layer) * tall, cell, tall);
      }
    }
    pen.strokeStyle = "#0058b0";
    pen.lineWidth = 2;
    const y = (layers - 1 - state.layer) * tall;
    const one = heads > 1 && !["mean", "max"].includes(state.head);
    pen.strokeRect(one ? Number(state.head) * cell + 1 : 1, y + 1, (one ? cell : mass.width) - 2, tall - 2);
  }

  /** Words coloured by their attention to the image or, with a patch pinned, to that patch. */
  function tint() {
    const seen = state.pinned || state.hover;
    const values = data.rows.map((_, row) => {
      if (seen) return line(armShown().attention[seen[0]], [state.layer, row])[seen[1]];
      const held = armShown().mass;
      const all = Array.from({ length: massHeads() }, (_, h) => line(held, [state.layer, h])[row]);
      return all.reduce((a, b) => a + b, 0) / all.length;
    });
    const top = seen ? Math.max(...values, 1e-9) : 1;
    words.forEach((word, i) => {
      const [r, g, b] = colour(RAMP, values[i] / top);
      word.style.background = `rgba(${r},${g},${b},${0.15 + 0.85 * Math.min(1, values[i] / top)})`;
      word.style.color = values[i] / top > 0.15 ? (values[i] / top > 0.7 ? "#fff" : "#000") : "";
      word.title = `${data.rows[i].kind}; ${seen ? "to this patch" : "to the image"}: ${values[i].toPrecision(3)}`;
    });
  }

  /** Beside the panels: what is known of the patch that is pinned or under the mouse. */
  function tell() {
    const seen = state.pinned || state.hover;
    if (!seen) { told.replaceChildren(make("p", { textContent: "Point at a patch; click to keep it." })); return; }
    const [panel, patch] = seen;
    const arm = armShown();
    const map = shown(panel, state.row);
    const rows = data.rows
      .map((row, i) => ({ text: row.text, share: line(arm.attention[panel], [state.layer, i])[patch] }))
      .sort((a, b) => b.share - a.share).slice(0, 6);
    const facts = [[`${data.probes[state.probe]} of “${data.rows[state.row].text}”`, map ? map[patch].toPrecision(3) : "–"]];
    if (arm.phi) facts.push(["phi", phis[panel][patch].toFixed(2) + (isSink(panel, patch) ? " (sink)" : "")]);
    const heads = arm.heads[data.layers[state.layer]];
    if (heads) {
      const by = Array.from({ length: heads[panel].shape[0] }, (_, h) => ({ head: h, share: line(heads[panel], [h, state.row])[patch] }));
      by.sort((a, b) => b.share - a.share);
      facts.push(["heads that look most", by.slice(0, 3).map((h) => `${h.head}: ${h.share.toPrecision(2)}`).join(", ")]);
    }
    const lens = data.lens && data.lens[panel];
    if (lens) facts.push(["lens", lens.vocabulary[lens.words[state.layer][patch]]]);
    told.replaceChildren(
      make("b", { textContent: `patch ${patch}, layer ${data.layers[state.layer]}` }),
      make("dl", {}, ...facts.flatMap(([k, v]) => [make("dt", { textContent: k }), make("dd", { textContent: v })])),
      make("b", { textContent: "who looks at it" }),
      make("ol", {}, ...rows.map((row) => make("li", { textContent: `${row.text}  ${row.share.toPrecision(2)}` }))),
    );
  }

  function offerHeads() {
    const held = data.arms[0].heads[data.layers[state.layer]];
    const count = held ? held[0].shape[0] : 0;
    const names = count ? ["mean", "max", ...Array.from({ length: count }, (_, h) => String(h))] : ["mean"];
    if (headIn.options.length !== names.length) {
      headIn.replaceChildren(...names.map((name) => make("option", { value: name, textContent: name })));
    }
    if (!names.includes(state.head)) state.head = "mean";
    headIn.value = state.head;
    headIn.disabled = !["attention", "lens"].includes(state.probe); // what else is shown is of no single head
  }

  // --- acting ---------------------------------------------------------------------------------
  /** @param {Partial<typeof state>} change */
  function set(change) {
    Object.assign(state, change);
    armIn.selectedIndex = state.arm;
    probeIn.value = state.probe;
    sinksIn.checked = state.sinks;
    draw();
  }

  /** @param {number} panel @param {number|null} patch */
  function hover(panel, patch) {
    const next = /** @type {Place|null} */ (patch === null ? null : [panel, patch]);
    if (same(next, state.hover) || next === state.hover) return;
    state.hover = next;
    if (state.ready) draw();
  }

  /** @param {number} now @param {number} by @param {number} count */
  const step = (now, by, count) => Math.min(Math.max(now + by, 0), count - 1);
  root.addEventListener("keydown", (event) => {
    const target = /** @type {HTMLElement} */ (event.target);
    if (event.ctrlKey || event.metaKey || event.altKey || target.tagName === "SELECT") return;
    const heads = [...headIn.options].map((o) => o.value);
    /** @param {number} by */
    const head = (by) => headIn.disabled ? {} : ({ head: heads[step(heads.indexOf(state.head), by, heads.length)] });
    /** @type {Record<string, () => Partial<typeof state>>} */
    const acts = {
      ArrowRight: () => ({ row: step(state.row, 1, words.length) }),
      ArrowLeft: () => ({ row: step(state.row, -1, words.length) }),
      ArrowUp: () => ({ layer: step(state.layer, 1, data.layers.length) }),
      ArrowDown: () => ({ layer: step(state.layer, -1, data.layers.length) }),
      "]": () => head(1), "[": () => head(-1),
      d: () => ({ arm: arms.length ? (state.arm + 1) % arms.length : 0 }),
      s: () => ({ sinks: !state.sinks }),
      o: () => ({ opacity: state.opacity > 0.9 ? 0.3 : state.opacity + 0.3 }),
      Escape: () => ({ pinned: null }),
    };
    const act = acts[event.key];
    if (!act || (target.tagName === "INPUT" && event.key.startsWith("Arrow"))) return;
    event.preventDefault();
    set(act());
  });

  function save() {
    const sheet = document.createElement("canvas");
    sheet.width = panels.reduce((sum, p) => sum + p.canvas.width + 8, 0);
    sheet.height = Math.max(...panels.map((p) => p.canvas.height)) + 26;
    const pen = penOf(sheet);
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, sheet.width, sheet.height);
    let x = 0;
    for (const { canvas } of panels) { pen.drawImage(canvas, x, 0); x += canvas.width + 8; }
    pen.fillStyle = "#000";
    pen.font = "14px sans-serif";
    const name = `${data.rows[state.row].text}, layer ${data.layers[state.layer]}, head ${state.head}`;
    pen.fillText(name, 4, sheet.height - 8);
    make("a", { href: sheet.toDataURL("image/png"), download: "attention.png" }).click();
  }

  async function load() {
    for (const arm of data.arms) {
      const stacks = [arm.mass, ...arm.attention, ...(arm.phi || []), ...(arm.contribution || []),
        ...Object.values(arm.heads).flat()];
      for (const stack of stacks) await unpack(stack);
    }
    state.ready = true;
    root.dataset.ready = "yes";
    draw();
  }

  draw();
  load();
  return { state, set };
}

export default {
  /** @param {{model: any, el: HTMLElement}} given */
  render({ model, el }) {
    mount(el, JSON.parse(model.get("payload")));
  },
};
