// npm's smtp-server that takes all mail and discards it: smtp_server_sink.js PORT, on 127.0.0.1.
const { SMTPServer } = require('smtp-server');

const server = new SMTPServer({
    authOptional: true,
    disabledCommands: ['AUTH', 'STARTTLS'],
    disableReverseLookup: true,
    onData(stream, session, callback) {
        stream.on('data', () => {});
        stream.on('end', () => callback());
    },
});
server.listen(Number(process.argv[2]), '127.0.0.1');
