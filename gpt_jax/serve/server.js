// Asking the server: what goes wrong becomes an Error with one sentence for whoever reads the page.
const GONE = "the server went away in the middle of the answer";

function headers() {
  const key = document.getElementById("key").value;
  return { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
}

export async function call(path, options = {}) {
  let response;
  try { response = await fetch(path, { headers: headers(), ...options }); }
  catch (error) {
    throw error.name === "AbortError" ? error : new Error("the server does not answer; is it still running?");
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  throw new Error(body?.error?.message ?? `the server answered ${response.status}`);
}

// The events of a stream, parsed.
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  while (true) {
    const { value, done } = await reader.read().catch((error) => {
      throw error.name === "AbortError" ? error : new Error(GONE);
    });
    if (done) throw new Error(GONE);
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const data of parts.map((part) => part.replace(/^data: /, ""))) {
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}
