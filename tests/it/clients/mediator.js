// A mediator as its authors write it: registers, asks for its settings, sends signs of life, hears of new settings.
// Arguments: the library's folder, the API's address, user, password. Prints a line for each thing that happened.
'use strict';

const [library, apiURL, username, password] = process.argv.slice(2);
const utils = require(library);
const urn = 'urn:mediator:real-client';
const options = { apiURL, username, password, urn, trustSelfSigned: true };
const say = (what, value) => console.log(value === undefined ? what : `${what} ${JSON.stringify(value)}`);
const fail = error => {
  say('error', String(error.message || error));
  process.exit(1);
};

const description = {
  urn,
  version: '1.0.0',
  name: 'A real client',
  description: 'Uses the library',
  defaultChannelConfig: [
    {
      name: 'Real client',
      urlPattern: '^/real$',
      routes: [{ name: 'Route', host: 'localhost', port: 9, primary: true, type: 'http' }],
      allow: ['clinics'],
      methods: ['GET'],
      type: 'http',
    },
  ],
  endpoints: [{ name: 'Endpoint', host: 'localhost', port: 9, path: '/', primary: true, type: 'http' }],
  configDefs: [{ param: 'limit', displayName: 'Limit', type: 'number' }],
  config: { limit: 1 },
};

utils.registerMediator(options, description, error => {
  if (error) fail(error);
  say('registered');
  utils.fetchConfig(options, (error, config) => {
    if (error) fail(error);
    say('fetched', config);
    const emitter = utils.activateHeartbeat(options, 100);
    emitter.on('error', fail);
    emitter.on('config', config => say('config', config));
  });
});
