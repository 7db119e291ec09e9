//! A client that shares no code with ours: the `websockets` package of Python.

use crate::support::Server;
use tokio::process::Command;

const CLIENT: &str = r#"
import asyncio, sys
from websockets.asyncio.client import connect

async def main(port):
    async with connect(f"ws://127.0.0.1:{port}/", subprotocols=["smtp"]) as ws:
        assert ws.subprotocol == "smtp"
        async def reply(code):
            text = b""
            while not any(line[3:4] == b" " for line in text.split(b"\r\n")[:-1]):
                message = await ws.recv()
                assert isinstance(message, bytes)
                text += message
            assert text.startswith(code), text
        await reply(b"220")
        for line, code in [("EHLO python", b"250"), ("MAIL FROM:<a@b.example>", b"250"),
                           ("RCPT TO:<c@d.example>", b"250"), ("DATA", b"354")]:
            await ws.send(line.encode() + b"\r\n")
            await reply(code)
        # One message in many frames.
        await ws.send([b"Subject: hi\r\n", b"", b"\r\n", b"0123456789abcd\r\n" * 20000, b".\r\n"])
        await reply(b"250")
        await (await ws.ping())
        await ws.send(b"QUIT\r\n")
        await reply(b"221")
        assert await ws.recv() == b""
        await ws.wait_closed()
        print("closed with", ws.close_code)

asyncio.run(main(int(sys.argv[1])))
"#;

#[tokio::test]
async fn python_sends_a_mail() {
    let python = std::env::var_os("SMTP_TEST_PYTHON").unwrap_or_else(|| "python3".into());
    let found = Command::new(&python).args(["-c", "import websockets.asyncio.client"]).output().await;
    if !found.is_ok_and(|output| output.status.success()) {
        println!("skipped: no Python with the package `websockets` (SMTP_TEST_PYTHON names one)");
        return;
    }
    let mut server = Server::start();
    let output = Command::new(&python).args(["-c", CLIENT, &server.port.to_string()]).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    server.ended.recv().await.unwrap().unwrap();
    assert_eq!(server.taken.lock().unwrap()[0].len(), "Subject: hi\r\n\r\n".len() + 320_000);
    assert_eq!(said.trim(), "closed with 1000");
}
