// Values as they are shown.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const tenth = new Intl.NumberFormat("en", {
  minimumFractionDigits: 1,
  maximumFractionDigits: 1,
});
const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

/** What stands where a value is not known. */
export const NONE = "–";

/** Returns a number with three digits at least where it is not whole: 0.5, 12.3, 1,234. */
export function count(number) {
  if (number == null) return NONE;
  return (Number.isInteger(number) || number >= 100 ? whole : tenth).format(number);
}

/** Returns a number of bytes in the largest fitting unit. */
export function bytes(number) {
  if (number == null) return NONE;
  let unit = 0;
  while (number >= 1000 && unit < UNITS.length - 1) {
    number /= 1024;
    unit += 1;
  }
  return `${(unit === 0 || number >= 100 ? whole : tenth).format(number)} ${UNITS[unit]}`;
}

/** Returns a number of seconds in one or two units. */
export function duration(seconds) {
  if (seconds == null) return NONE;
  if (seconds < 0.0005) return "0 ms";
  if (seconds < 0.01) return `${tenth.format(seconds * 1000)} ms`;
  if (seconds < 1) return `${whole.format(seconds * 1000)} ms`;
  if (seconds < 10) return `${tenth.format(seconds)} s`;
  seconds = Math.round(seconds);
  for (const [size, name, part, partName] of [
    [86400, "d", 3600, "h"],
    [3600, "h", 60, "min"],
    [60, "min", 1, "s"],
  ]) {
    if (seconds >= size) {
      return `${Math.floor(seconds / size)} ${name} ${Math.floor((seconds % size) / part)} ${partName}`;
    }
  }
  return `${seconds} s`;
}

/** Returns the time of day of a Date. */
export function clock(date) {
  return date.toLocaleTimeString("en-GB");
}

/** Returns the day of a Date. */
export function day(date) {
  return date.toLocaleDateString("en-CA"); // ISO 8601
}

/** Returns the day and time of a Date. */
export function dateTime(date) {
  return `${day(date)} ${clock(date)}`;
}

/** Returns "1 peer" or "2 peers". */
export function plural(number, noun) {
  return `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
}

/**
 * Returns a text of others so that nothing in it is invisible or changes what stands beside it:
 * control characters as their pictures, others of that kind (such as those that turn the
 * direction of writing) by their number.
 */
export function plain(text, most = 512) {
  const cut = text.length > most ? `${text.slice(0, most)}…` : text;
  return cut.replace(/[\p{Cc}\p{Cf}\p{Cs}\p{Co}\u2028\u2029]/gu, (character) => {
    const code = character.codePointAt(0);
    if (code < 32) return String.fromCharCode(0x2400 + code);
    return code === 127 ? "␡" : `⟨U+${code.toString(16).toUpperCase().padStart(4, "0")}⟩`;
  });
}
