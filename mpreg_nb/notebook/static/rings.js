// rings.js: where the nodes of a topology stand; pure arithmetic, no drawing.

const ROOM_PX = 46; // along a ring, for one node of full size
const UPRIGHT_LABELS = 18; // so many names fit around one ring without turning
const WIDE_LABEL = 130;
const TURNED_LABEL = 84;

// Places of `nodes` around the middle, as a Map of name to { x, y, angle, radius, size,
// turned }, and the `box` [x, y, width, height] that holds them and their names.
//
// The client stands in the middle. Rings take nodes in proportion to their length, the
// outer ones more, so that all are about as dense.
export function ringPlaces(nodes) {
  const places = new Map();
  const around = nodes.filter((node) => node.kind !== "client");
  const turned = around.length > UPRIGHT_LABELS;
  const size = around.length > 60 ? 0.62 : around.length > UPRIGHT_LABELS ? 0.8 : 1;
  const radii = ringRadii(around.length, ROOM_PX * size, turned);
  const whole = radii.reduce((sum, radius) => sum + radius, 0);
  let taken = 0;
  radii.forEach((radius, index) => {
    const last = index === radii.length - 1;
    const share = Math.round((around.length * radius) / whole);
    const here = around.slice(taken, last ? around.length : taken + share);
    taken += here.length;
    here.forEach((node, place) => {
      const angle = ((place + (index % 2) / 2) / here.length) * 2 * Math.PI - Math.PI / 2;
      const x = radius * Math.cos(angle);
      const y = radius * Math.sin(angle);
      places.set(node.node, { x, y, angle, radius, size, turned });
    });
  });
  const middle = { x: 0, y: 0, angle: 0, radius: 0, size: 1.15, turned: false };
  const client = nodes.find((node) => node.kind === "client");
  const all = client ? new Map([[client.node, middle], ...places]) : places;
  const widest = radii[radii.length - 1] ?? 40;
  const [beside, above] = turned ? [TURNED_LABEL, TURNED_LABEL] : [WIDE_LABEL, 34];
  const [halfWidth, halfHeight] = [widest + beside, widest + above];
  return { places: all, box: [-halfWidth, -halfHeight, 2 * halfWidth, 2 * halfHeight] };
}

function ringRadii(number, room, turned) {
  if (number === 0) return [];
  const least = 135;
  const single = Math.max(least, (number * room) / (2 * Math.PI));
  if (!turned || single <= 230) return [single];
  const gap = TURNED_LABEL + 26;
  const radii = [];
  let held = 0;
  for (let radius = least; held < number; radius += gap) {
    radii.push(radius);
    held += Math.floor((2 * Math.PI * radius) / room);
  }
  return radii;
}
