"use strict";
// How a map becomes a picture: colours, smoothing, outlines. Knows nothing of the page's controls.
const { colours, exponent } = JSON.parse(document.getElementById("colours").textContent);
const LEAST_SIDE = 512; // pixels of the canvas: outlines of small pictures stay thin
const HEAT_SIDE = 256; // pixels of a smooth map, before it is laid over the picture

const OUTLINE_CELLS = 16; // per side: finer maps are outlined by the means of their blocks
const STRONGEST = { colour: "#fff", dashes: [] };
const EXPERTS = { colour: "#ffb000", dashes: [9, 7] };

const anchors = colours.map((hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)));

function colourOf(value) {
  const place = value * (anchors.length - 1);
  const low = Math.min(Math.floor(place), anchors.length - 2);
  return anchors[low].map((from, i) => from + (place - low) * (anchors[low + 1][i] - from));
}

// What speaks for (or against) the finding, the strongest place as 1.
function strengths(grid, side) {
  const sign = side === "for" ? 1 : -1;
  const values = grid.values.map((value) => Math.max(sign * value, 0));
  const largest = Math.max(...values);
  return largest > 0 ? values.map((value) => value / largest) : values;
}

// Bilinear between the cells' centres.
function smoothed(values, rows, columns) {
  const fine = new Float64Array(HEAT_SIDE * HEAT_SIDE);
  const clamp = (place, cells) => Math.min(Math.max(place, 0), cells - 1);
  for (let y = 0; y < HEAT_SIDE; y += 1) {
    const row = clamp(((y + 0.5) * rows) / HEAT_SIDE - 0.5, rows);
    const top = Math.floor(row);
    const bottom = Math.min(top + 1, rows - 1);
    for (let x = 0; x < HEAT_SIDE; x += 1) {
      const column = clamp(((x + 0.5) * columns) / HEAT_SIDE - 0.5, columns);
      const left = Math.floor(column);
      const right = Math.min(left + 1, columns - 1);
      const mix = (r) =>
        values[r * columns + left] * (1 - column + left) + values[r * columns + right] * (column - left);
      fine[y * HEAT_SIDE + x] = mix(top) * (1 - row + top) + mix(bottom) * (row - top);
    }
  }
  return fine;
}

// The map as a canvas that lets the picture through where nothing speaks.
function heat(grid, chosen) {
  const values = strengths(grid, chosen.side);
  const [rows, columns] = chosen.smooth ? [HEAT_SIDE, HEAT_SIDE] : [grid.rows, grid.columns];
  const fine = chosen.smooth ? smoothed(values, grid.rows, grid.columns) : values;
  const canvas = document.createElement("canvas");
  canvas.width = columns;
  canvas.height = rows;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(columns, rows);
  fine.forEach((value, at) => {
    pixels.data.set([...colourOf(value), 255 * chosen.opacity * value ** exponent], 4 * at);
  });
  context.putImageData(pixels, 0, 0);
  return canvas;
}

// Means over square blocks, so that a map of fine grain gets outlines that an eye can follow.
function pooled({ values, rows, columns }, most) {
  const side = Math.ceil(Math.max(rows, columns) / most);
  const [high, wide] = [Math.ceil(rows / side), Math.ceil(columns / side)];
  const sums = new Array(high * wide).fill(0);
  const counts = new Array(high * wide).fill(0);
  values.forEach((value, at) => {
    const row = Math.floor(Math.floor(at / columns) / side);
    const into = row * wide + Math.floor((at % columns) / side);
    sums[into] += value;
    counts[into] += 1;
  });
  const means = sums.map((sum, at) => sum / counts[at]);
  // Height and width of a block as shares of the picture; a last one may reach over its edge.
  return { values: means, rows: high, columns: wide, height: side / rows, width: side / columns };
}

// The border around the cells that reach half of the largest value, along the cells' edges.
function outlined(context, blocks, { colour, dashes }) {
  const { values, rows, columns } = blocks;
  const least = Math.max(...values) / 2;
  if (!(least > 0)) return;
  const isIn = (r, c) =>
    r >= 0 && c >= 0 && r < rows && c < columns && values[r * columns + c] >= least;
  const high = context.canvas.height * blocks.height;
  const wide = context.canvas.width * blocks.width;
  context.beginPath();
  for (let r = 0; r <= rows; r += 1) {
    for (let c = 0; c <= columns; c += 1) {
      if (isIn(r, c) !== isIn(r - 1, c)) {
        context.moveTo(c * wide, r * high);
        context.lineTo((c + 1) * wide, r * high);
      }
      if (isIn(r, c) !== isIn(r, c - 1)) {
        context.moveTo(c * wide, r * high);
        context.lineTo(c * wide, (r + 1) * high);
      }
    }
  }
  // Dark beneath light: seen on any picture, and told apart by dashes, not by colour alone.
  const thin = context.canvas.width / LEAST_SIDE;
  context.lineWidth = 4 * thin;
  context.strokeStyle = "#000";
  context.stroke();
  context.lineWidth = 1.75 * thin;
  context.strokeStyle = colour;
  context.setLineDash(dashes.map((one) => one * thin));
  context.stroke();
  context.setLineDash([]);
}
