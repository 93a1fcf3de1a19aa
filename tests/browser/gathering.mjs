// What a page does to learn its addresses. Runs in the page: it may name nothing outside itself.

/** Resolves with `{ candidates, errors }` once the page has asked that STUN server from all its interfaces. */
export async function gatherCandidates(urls) {
  const connection = new RTCPeerConnection({ iceServers: [{ urls }] });
  const [candidates, errors] = [[], []];
  connection.onicecandidateerror = ({ errorCode, errorText, url }) => errors.push({ errorCode, errorText, url });
  const complete = new Promise((resolve) => {
    connection.onicecandidate = ({ candidate }) => {
      if (!candidate) return resolve();
      const { type, protocol, address, port } = candidate;
      candidates.push({ type, protocol, address, port });
    };
  });
  connection.createDataChannel('any');
  await connection.setLocalDescription();
  await complete;
  connection.close();
  return { candidates, errors };
}
