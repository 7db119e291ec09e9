// Sends messages of 4 KiB over 20 pooled connections: nodemailer_source.js PORT MESSAGES, to 127.0.0.1.
const nodemailer = require('nodemailer');

const messages = Number(process.argv[3]);
const transport = nodemailer.createTransport({
    host: '127.0.0.1',
    port: Number(process.argv[2]),
    pool: true,
    maxConnections: 20,
    maxMessages: Infinity,
    ignoreTLS: true,
});
const raw = 'Subject: bench\r\n\r\n' + ('x'.repeat(62) + '\r\n').repeat(64);
const all = Array.from({ length: messages }, () =>
    transport.sendMail({ envelope: { from: 'a@perf.test', to: ['b@perf.test'] }, raw }),
);
Promise.all(all).then(
    () => transport.close(),
    (error) => {
        console.error(error);
        process.exit(1);
    },
);
