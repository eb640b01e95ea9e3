// A drawing area for mouse, pen, finger and keyboard. Strokes are kept, so that colours and the last stroke can change.

const STEP_PX = 8;
const FINE_STEP_PX = 2;
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Pad {
  #strokes = [];
  #inverted = false;
  #at = { x: 0, y: 0 };
  #drawing = null;

  // `onChange` is called when a stroke is finished or taken back.
  constructor(canvas, cursor, pen, onChange) {
    Object.assign(this, { canvas, cursor, pen, onChange });
    this.context = canvas.getContext("2d");
    this.#at = { x: canvas.width / 2, y: canvas.height / 2 };
    canvas.addEventListener("pointerdown", (event) => this.#onPointerDown(event));
    canvas.addEventListener("pointermove", (event) => this.#onPointerMove(event));
    for (const type of ["pointerup", "pointercancel"]) canvas.addEventListener(type, () => this.#end());
    canvas.addEventListener("keydown", (event) => this.#onKey(event));
    canvas.addEventListener("blur", () => {
      this.#end();
      this.#showCursor(false);
    });
    this.#paint();
  }

  get empty() {
    return this.#strokes.length === 0;
  }

  set inverted(value) {
    this.#inverted = value;
    this.#changed();
  }

  undo() {
    this.#strokes.pop();
    this.#changed();
  }

  clear() {
    this.#strokes = [];
    this.#changed();
  }

  toBlob() {
    return new Promise((resolve) => this.canvas.toBlob(resolve, "image/png"));
  }

  #onPointerDown(event) {
    if (event.button !== 0) return;
    event.preventDefault();
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    this.#showCursor(false);
    this.#start(this.#place(event));
  }

  #onPointerMove(event) {
    if (!this.#drawing || !this.canvas.hasPointerCapture(event.pointerId)) return;
    for (const part of event.getCoalescedEvents?.() ?? [event]) this.#drawing.points.push(this.#place(part));
    this.#paint();
  }

  #onKey(event) {
    if (event.key === " ") {
      if (this.#drawing) this.#end();
      else this.#start({ ...this.#at });
    } else if (event.key in MOVES) {
      const [x, y] = MOVES[event.key];
      const step = event.shiftKey ? FINE_STEP_PX : STEP_PX;
      this.#at.x = Math.min(Math.max(this.#at.x + x * step, 0), this.canvas.width);
      this.#at.y = Math.min(Math.max(this.#at.y + y * step, 0), this.canvas.height);
      this.#drawing?.points.push({ ...this.#at });
      this.#paint();
    } else {
      return;
    }
    event.preventDefault();
    this.#showCursor(true);
  }

  #place(event) {
    const box = this.canvas.getBoundingClientRect();
    const scale = this.canvas.width / box.width;
    return { x: (event.clientX - box.left) * scale, y: (event.clientY - box.top) * scale };
  }

  #start(point) {
    this.#drawing = { width: this.pen.valueAsNumber, points: [point] };
    this.#strokes.push(this.#drawing);
    this.#paint();
  }

  #end() {
    if (!this.#drawing) return;
    this.#drawing = null;
    this.onChange();
  }

  #changed() {
    this.#drawing = null;
    this.#paint();
    this.onChange();
  }

  #paint() {
    const { context, canvas } = this;
    const [paper, ink] = this.#inverted ? ["#fff", "#000"] : ["#000", "#fff"];
    context.fillStyle = paper;
    context.fillRect(0, 0, canvas.width, canvas.height);
    Object.assign(context, { strokeStyle: ink, lineCap: "round", lineJoin: "round" });
    for (const { width, points } of this.#strokes) {
      context.lineWidth = width;
      context.beginPath();
      context.moveTo(points[0].x, points[0].y);
      for (const { x, y } of points) context.lineTo(x, y);
      context.stroke();
    }
  }

  #showCursor(shown) {
    this.cursor.hidden = !shown;
    this.cursor.classList.toggle("down", Boolean(this.#drawing));
    this.cursor.style.left = `${(this.#at.x / this.canvas.width) * 100}%`;
    this.cursor.style.top = `${(this.#at.y / this.canvas.height) * 100}%`;
  }
}
